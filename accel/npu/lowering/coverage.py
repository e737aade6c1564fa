"""Where each operator of a model runs: one row of the coverage report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRow:
    """Where one operator of the model runs, and why not on the NPU if it does not."""

    layer: str
    operator: str
    on_npu: bool
    reason: str = ""
    """Why it stays on the host, or how it needs no work of the NPU."""
