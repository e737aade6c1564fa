"""What a scheme tells about the variant that it made, beside its files."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFloat:
    """An operator that stayed in float32, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """What was made."""

    kept_float: tuple[KeptFloat, ...] = ()
    compare_with: onnx.ModelProto | None = None
    """The float graph that the layers answer to, where it is not the build's own (equalization scales them)."""
