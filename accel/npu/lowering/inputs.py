"""Preprocessing of inputs on the host: gain and offset, transpose from channels-last, reshape to a vector.

Networks often begin with their own preprocessing (`x / 255`, `x / 127.5 - 1`, mean and standard deviation per channel). On the
NPU it would cost a layer and a rounding. The host quantizes the float input anyway, so it applies them first (docs/spec/npu.md,
N44).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from accel.npu.lowering.layers import PerChannel
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError

CONSTANT_ERROR = "the host can scale or shift an input by one number, or by one number per channel, only"
AFFINE = ("Mul", "Div", "Add", "Sub")
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RawInput:
    """A float tensor that the host computes from a graph input: input x gain + offset, optionally transposed or flattened."""

    name: str
    channels_last: bool = False
    gain: PerChannel = 1.0
    offset: PerChannel = 0.0
    axis: int = 0
    """The negative axis of the user's array along which gain and offset vary; 0 if they are scalars."""
    shape: tuple[int, ...] = ()
    """The shape of the user's array without the batch axis, if the host flattens it."""

    def after(self, step: Affine) -> RawInput:
        """Return the tensor after one more affine step.

        Raises:
            UnsupportedError: the step varies along an axis other than the channels.
        """
        axis = -1 if self.channels_last and step.axis == -3 else step.axis
        if axis not in (0, -1, -3) or (self.channels_last and step.axis == -1) or (self.axis and axis not in (0, self.axis)):
            raise UnsupportedError(CONSTANT_ERROR)
        gain = np.asarray(self.gain) * step.gain
        offset = np.asarray(self.offset) * step.gain + step.offset
        return replace(self, gain=_plain(gain), offset=_plain(offset), axis=self.axis or axis)

    def is_by_channel(self, *, flat: bool) -> bool:
        """Return true if gain and offset are scalars or vary along the channels."""
        channels = -1 if self.channels_last or (flat and not self.shape) else -3
        return not self.axis or (self.axis == channels and not self.shape)

    def check_axis(self, *, flat: bool) -> None:
        """Raise `UnsupportedError` unless gain and offset are scalars or vary along the channels."""
        if not self.is_by_channel(flat=flat):
            raise UnsupportedError(CONSTANT_ERROR)


@dataclass(frozen=True, slots=True)
class Affine:
    """Tensor x gain + offset; both vary along `axis`, which is negative, or are scalars if it is 0."""

    name: str
    gain: Numbers
    offset: Numbers
    axis: int


def affine(graph: QdqGraph, node: onnx.NodeProto) -> Affine | None:
    """Return a Mul, Div, Add or Sub of a tensor and a constant as an affine step, or None if both operands are tensors.

    Raises:
        UnsupportedError: the constant varies along more than one axis, or the gain is not positive.
    """
    at = next((at for at in (1, 0) if graph.is_constant(node.input[at])), None)
    if at is None:
        return None
    if at == 0 and node.op_type in ("Sub", "Div"):
        raise UnsupportedError(f"the host cannot apply a {node.op_type} whose first operand is a constant")
    numbers = graph.numbers(node.input[at])
    if numbers is None or sum(size > 1 for size in numbers.shape) > 1:
        raise UnsupportedError(CONSTANT_ERROR)
    axis = next((place - numbers.ndim for place, size in enumerate(numbers.shape) if size > 1), 0)
    row, zero = numbers.reshape(-1), np.zeros(1)
    if node.op_type in ("Add", "Sub"):
        return Affine(node.input[1 - at], np.ones(1), row if node.op_type == "Add" else zero - row, axis)
    if row.min() <= 0:
        raise UnsupportedError(f"the host can scale an input by positive numbers only, not by {row.min():g}")
    return Affine(node.input[1 - at], row if node.op_type == "Mul" else 1 / row, zero, axis)


def _plain(numbers: Numbers) -> PerChannel:
    return float(numbers.reshape(-1)[0]) if numbers.size == 1 else tuple(map(float, numbers))
