"""What the host does to an input while it hands it over: a gain and an offset, a turn from channels-last, a reshape to a vector.

Networks often begin with their own preprocessing (`x / 255`, `x / 127.5 - 1`, a mean and a deviation per channel). In integers it
would cost a layer and a rounding; the host has the float numbers in its hands anyway (docs/spec/npu.md, N44).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from accel.npu.lowering.layers import PerChannel
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError

AFFINE = ("Mul", "Div", "Add", "Sub")
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RawInput:
    """A float tensor that the host makes of a graph input: times `gain`, plus `offset`, maybe transposed or made one axis."""

    name: str
    channels_last: bool = False
    gain: PerChannel = 1.0
    offset: PerChannel = 0.0
    axis: int = 0
    """Of the user's array, counted from its end: along which gain and offset go; 0 when they are one number each."""
    shape: tuple[int, ...] = ()
    """Of the user's array without its first axis, where it becomes a vector."""

    def after(self, step: Affine) -> RawInput:
        """Return the tensor times one number or vector, plus another one."""
        axis = -1 if self.channels_last and step.axis == -3 else step.axis
        if axis not in (0, -1, -3) or (self.channels_last and step.axis == -1) or (self.axis and axis not in (0, self.axis)):
            raise UnsupportedError("an input can be changed by one number, or by one per channel, by the host")
        gain = np.asarray(self.gain) * step.gain
        offset = np.asarray(self.offset) * step.gain + step.offset
        return replace(self, gain=_plain(gain), offset=_plain(offset), axis=self.axis or axis)

    def check_axis(self, *, flat: bool) -> None:
        """Raise `UnsupportedError` unless gain and offset go along the channels."""
        channels = -1 if self.channels_last or (flat and not self.shape) else -3
        if self.axis and (self.axis != channels or self.shape):
            raise UnsupportedError("an input can be changed by one number, or by one per channel, by the host")


@dataclass(frozen=True, slots=True)
class Affine:
    """What a tensor is multiplied by before something is added, and along which axis, counted from the end (0: none)."""

    name: str
    gain: Numbers
    offset: Numbers
    axis: int


def affine(graph: QdqGraph, node: onnx.NodeProto) -> Affine | None:
    """Return a Mul, Div, Add or Sub of a tensor and a constant, or None when the other one is a tensor too.

    Raises:
        UnsupportedError: the constant has more than one axis, or the tensor would be turned over.
    """
    at = next((at for at in (1, 0) if graph.is_constant(node.input[at])), None)
    if at is None:
        return None
    if at == 0 and node.op_type in ("Sub", "Div"):
        raise UnsupportedError(f"a {node.op_type} from a constant turns the numbers over")
    numbers = graph.numbers(node.input[at])
    if numbers is None or sum(size > 1 for size in numbers.shape) > 1:
        raise UnsupportedError("an input can be changed by one number, or by one per channel, by the host")
    axis = next((place - numbers.ndim for place, size in enumerate(numbers.shape) if size > 1), 0)
    row, zero = numbers.reshape(-1), np.zeros(1)
    if node.op_type in ("Add", "Sub"):
        return Affine(node.input[1 - at], np.ones(1), row if node.op_type == "Add" else zero - row, axis)
    if row.min() <= 0:
        raise UnsupportedError(f"an input can be scaled by positive numbers, by the host, not by {row.min():g}")
    return Affine(node.input[1 - at], row if node.op_type == "Mul" else 1 / row, zero, axis)


def _plain(numbers: Numbers) -> PerChannel:
    return float(numbers.reshape(-1)[0]) if numbers.size == 1 else tuple(map(float, numbers))
