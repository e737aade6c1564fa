"""Axis orders: Keras stores channels last, ONNX runtimes and accelerators use channels first.

A `Tensor` is a value of the graph with its shape in Keras and its axis order in the graph. Rules request the order that they
need, and a Transpose is emitted only where the order must change: in common networks, once at an image input. A flattened image
keeps channels-first order until a Dense layer reorders the rows of its weights accordingly.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.graph.emit import Emitter, Shape


class Layout(enum.Enum):
    """Axis order of a tensor in the graph."""

    NATIVE = enum.auto()
    """Keras's order."""
    CHANNELS_FIRST = enum.auto()
    """Keras's last axis is second, after the batch."""
    FLATTENED_CHANNELS_FIRST = enum.auto()
    """Rank 2 in Keras and in the graph, with the columns of the channels-first image."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph, its shape in Keras (including the batch), and its layout in the graph."""

    value: ir.Value
    shape: Shape
    layout: Layout = Layout.NATIVE
    image: tuple[int, ...] = ()
    """Sizes (…, channels) of a flattened image in Keras before flattening; empty for other tensors."""

    @property
    def rank(self) -> int:
        """The number of axes in Keras, including the batch."""
        return len(self.shape)

    def axis(self, keras_axis: int) -> int:
        """Return the axis of the value that corresponds to an axis in Keras."""
        axis = keras_axis % self.rank
        if self.layout is not Layout.CHANNELS_FIRST or axis == 0:
            return axis
        return 1 if axis == self.rank - 1 else axis + 1


class Layouts:
    """Conversion between layouts; each tensor is converted at most once."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._changed: dict[tuple[int, Layout], ir.Value] = {}

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return `tensor` (rank 3 or more) with the channels second, after the batch."""
        if tensor.layout is Layout.CHANNELS_FIRST:
            return tensor
        last = tensor.rank - 1
        value = self._transposed(tensor.value, (0, last, *range(1, last)), Layout.CHANNELS_FIRST)
        return replace(tensor, value=value, layout=Layout.CHANNELS_FIRST)

    def native(self, tensor: Tensor) -> Tensor:
        """Return `tensor` in Keras's axis order."""
        if tensor.layout is Layout.NATIVE:
            return tensor
        if tensor.layout is Layout.CHANNELS_FIRST:
            value = self._transposed(tensor.value, (0, *range(2, tensor.rank), 1), Layout.NATIVE)
            return Tensor(value, tensor.shape)
        return self._reordered(tensor)

    def _transposed(self, value: ir.Value, order: tuple[int, ...], layout: Layout) -> ir.Value:
        key = (id(value), layout)
        if key not in self._changed:
            self._changed[key] = self._emit.node("Transpose", [value], where=value.name or "input", perm=list(order))
        return self._changed[key]

    def _reordered(self, tensor: Tensor) -> Tensor:
        key = (id(tensor.value), Layout.NATIVE)
        if key not in self._changed:
            where, (*space, channels) = str(tensor.value.name), tensor.image
            shape = self._emit.integers(f"{where}/image", [-1, channels, *space])
            image = self._emit.node("Reshape", [tensor.value, shape], where=where)
            transposed = self._emit.node("Transpose", [image], where=where, perm=[0, *range(2, len(space) + 2), 1])
            self._changed[key] = self._emit.node("Flatten", [transposed], where=where, axis=1)
        return Tensor(self._changed[key], tensor.shape)


def rows_in_order_of(tensor: Tensor, kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a Dense kernel as a view whose rows are in the order of `tensor`'s columns."""
    if tensor.layout is not Layout.FLATTENED_CHANNELS_FIRST:
        return kernel
    image = kernel.reshape(*tensor.image, -1)
    axes = range(image.ndim)
    return image.transpose(axes[-2], *axes[:-2], axes[-1])


def columns_in_order_of(tensor: Tensor, per_column: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return one number per column of a rank-2 `tensor`, in the order of its columns."""
    return np.ascontiguousarray(rows_in_order_of(tensor, per_column.reshape(-1, 1))).reshape(-1)


def constant_in_order_of(tensor: Tensor, constant: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a constant in Keras's order, rearranged so that it broadcasts against `tensor` in its layout."""
    if constant.size == 1:
        return constant.reshape(())
    full = constant.reshape((1,) * (tensor.rank - constant.ndim) + constant.shape)
    if tensor.layout is Layout.CHANNELS_FIRST:
        return full.transpose(0, tensor.rank - 1, *range(1, tensor.rank - 1))
    if tensor.layout is Layout.FLATTENED_CHANNELS_FIRST:
        return columns_in_order_of(tensor, np.broadcast_to(full, (1, int(np.prod(tensor.image))))[0]).reshape(1, -1)
    return full
