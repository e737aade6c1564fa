"""The layout of tensors in the activation memory, and the conversion from and to the user's arrays.

A tensor of C channels is split into blocks of `columns` channels; each block is a plane of vectors, row by row, and the planes
follow one another. A narrow input (an RGB image) may be *folded*: the host puts the pixels under each row of the kernel side
by side into one vector. A 3x3 convolution of 3 channels then needs 3 visits of the memory, not 9 (docs/spec/npu.md, N40-N43).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import Int8
from edgewright.errors import SamplesError


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFold:
    """Parameters of a folded input: the kernel columns that the host puts side by side, and the width of the result."""

    kernel: int
    step: int
    dilation: int
    left: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """One input or output of a program: its shape, quantization and address."""

    name: str
    channels: int
    height: int
    width: int
    scale: float
    zero_point: int
    base: int
    channels_last: bool = False
    """The user's array is [count, height, width, channels]."""
    flat: bool = False
    """The user's array is [count, channels x height x width]."""
    line: bool = False
    """The user's array is [count, channels, width]; the height is 1."""
    fold: ColumnFold | None = None
    gain: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    """The user's values are multiplied by `gain`, then `offset` is added, before they are quantized (inputs only): one number
    for all channels, or one per channel."""
    given_shape: tuple[int, ...] = ()
    """The user's array is [count, *given_shape] and is flattened (inputs only); if empty, `flat` decides the shape."""

    @property
    def stored_channels(self) -> int:
        """Channels per stored position."""
        return self.channels * (self.fold.kernel if self.fold else 1)

    @property
    def stored_width(self) -> int:
        """Positions per stored row."""
        return self.fold.width if self.fold else self.width

    def vectors(self, columns: int) -> int:
        """Return the number of vectors that the tensor occupies in an NPU with `columns` columns."""
        return -(-self.stored_channels // columns) * self.height * self.stored_width


def quantize(values: npt.NDArray[np.floating[Any]], place: TensorPlace) -> Int8:
    """Apply gain and offset, then quantize as ONNX QuantizeLinear does (half to even, in float32); the shape stays."""
    gained = values.astype(np.float32) * _by_channel(place.gain, place) + _by_channel(place.offset, place)
    scaled = np.rint(gained / np.float32(place.scale)) + np.float32(place.zero_point)
    quantized: Int8 = np.clip(scaled, -128, 127).astype(np.int8)
    return quantized


def _by_channel(numbers: float | tuple[float, ...], place: TensorPlace) -> npt.NDArray[np.float32]:
    """Return the numbers in a shape that broadcasts over the channels of the user's array."""
    row = np.asarray(numbers, np.float32)
    return row if row.size == 1 or place.channels_last or place.flat else row.reshape(-1, 1, 1)


def dequantize(values: Int8, place: TensorPlace) -> npt.NDArray[np.float32]:
    """Return the real values of int8 values, in the same shape."""
    return (values.astype(np.float32) - np.float32(place.zero_point)) * np.float32(place.scale)


def pack(values: Int8, place: TensorPlace, columns: int) -> Int8:
    """Return the user's array as [count, vectors, columns]; unused channels hold the zero point.

    Raises:
        SamplesError: the array does not have the input's shape.
    """
    planes_first = _channels_first(values, place)
    stored = _fold(planes_first, place) if place.fold else planes_first
    count, channels, height, width = stored.shape
    blocks = -(-channels // columns)
    padded = np.full((count, blocks * columns, height, width), place.zero_point, np.int8)
    padded[:, :channels] = stored
    planes = padded.reshape(count, blocks, columns, height * width).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(planes).reshape(count, -1, columns)


def unpack(vectors: Int8, place: TensorPlace, columns: int) -> Int8:
    """Return [count, vectors, columns] as [count, channels, height, width], or in the shape of `place.flat` or `place.line`."""
    blocks = -(-place.channels // columns)
    planes = vectors.reshape(len(vectors), blocks, place.height * place.width, columns).transpose(0, 1, 3, 2)
    whole = planes.reshape(len(vectors), blocks * columns, place.height, place.width)
    used = np.ascontiguousarray(whole[:, : place.channels])
    if place.line:
        return used.reshape(len(used), place.channels, place.width)
    return used.reshape(len(used), -1) if place.flat else used


def _channels_first(values: Int8, place: TensorPlace) -> Int8:
    channels, height, width = place.channels, place.height, place.width
    shape = (height, width, channels) if place.channels_last else (channels, height, width)
    line = tuple(size for axis, size in enumerate(shape) if axis != (0 if place.channels_last else 1))
    expected = place.given_shape or ((channels * height * width,) if place.flat else line if place.line else shape)
    if values.shape[1:] != expected:
        raise SamplesError(f"input {place.name} must have shape [N, {', '.join(map(str, expected))}], not {list(values.shape)}")
    planes = values.reshape(len(values), *shape)
    return planes.transpose(0, 3, 1, 2) if place.channels_last else planes


def _fold(values: Int8, place: TensorPlace) -> Int8:
    fold = place.fold
    assert fold is not None
    reach = (fold.width - 1) * fold.step + (fold.kernel - 1) * fold.dilation + 1
    margin = max(0, reach - fold.left - place.width)
    wide = np.pad(values, ((0, 0), (0, 0), (0, 0), (fold.left, margin)), constant_values=place.zero_point)
    last = (fold.width - 1) * fold.step + 1
    taps = [wide[..., tap * fold.dilation : tap * fold.dilation + last : fold.step] for tap in range(fold.kernel)]
    return np.concatenate(taps, axis=1)
