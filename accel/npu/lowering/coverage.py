"""One row of the coverage report: the assignment of an operator to the NPU or the host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRow:
    """Assignment of one operator to the NPU or the host."""

    layer: str
    operator: str
    on_npu: bool
    reason: str = ""
    """The reason why the operator stays on the host, or needs no instructions on the NPU."""
    segment: int | None = None
    """The part of the NPU that computes it, counted from 1 (segments.py); None on the host."""
