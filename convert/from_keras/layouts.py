"""Keras keeps channels last, ONNX runtimes and accelerators want them first; here lies the whole difference.

A `Tensor` is a value of the new graph together with the shape that Keras gives it and the order in which we hold it. Rules ask
for the order that they need, and a Transpose appears only where an order really has to change: once at an image input, and
nowhere else in the networks that people train. A flattened image stays in channels-first order until a Dense layer absorbs the
difference into the rows of its weights.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.graph.emit import Emitter, Shape


class Layout(enum.Enum):
    """How a tensor's axes are ordered in the graph."""

    NATIVE = enum.auto()
    """As Keras has them."""
    CHANNELS_FIRST = enum.auto()
    """Keras's last axis comes right after the batch."""
    FLATTENED_CHANNELS_FIRST = enum.auto()
    """Rank 2 for Keras and here, but the columns are those of the channels-first image."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value, the shape that Keras gives it (batch included), and its layout here."""

    value: ir.Value
    shape: Shape
    layout: Layout = Layout.NATIVE
    image: tuple[int, ...] = ()
    """For a flattened image: Keras's sizes (…, channels) before it was flattened."""

    @property
    def rank(self) -> int:
        """The number of axes that Keras sees, batch included."""
        return len(self.shape)

    def axis(self, keras_axis: int) -> int:
        """Return where Keras's axis lies in the value."""
        axis = keras_axis % self.rank
        if self.layout is not Layout.CHANNELS_FIRST or axis == 0:
            return axis
        return 1 if axis == self.rank - 1 else axis + 1


class Layouts:
    """Changes layouts, each tensor at most once."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._changed: dict[tuple[int, Layout], ir.Value] = {}

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return `tensor` (rank 3 or more) with its channels right after the batch."""
        if tensor.layout is Layout.CHANNELS_FIRST:
            return tensor
        last = tensor.rank - 1
        value = self._transposed(tensor.value, (0, last, *range(1, last)), Layout.CHANNELS_FIRST)
        return replace(tensor, value=value, layout=Layout.CHANNELS_FIRST)

    def native(self, tensor: Tensor) -> Tensor:
        """Return `tensor` in Keras's order."""
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
            turned = self._emit.node("Transpose", [image], where=where, perm=[0, *range(2, len(space) + 2), 1])
            self._changed[key] = self._emit.node("Flatten", [turned], where=where, axis=1)
        return Tensor(self._changed[key], tensor.shape)


def rows_in_order_of(tensor: Tensor, kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a Dense kernel as a view whose rows are in the order of `tensor`'s columns."""
    if tensor.layout is not Layout.FLATTENED_CHANNELS_FIRST:
        return kernel
    image = kernel.reshape(*tensor.image, -1)
    places = range(image.ndim)
    return image.transpose(places[-2], *places[:-2], places[-1])


def columns_in_order_of(tensor: Tensor, per_column: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return one number per column of a rank-2 `tensor`, in the order of its columns."""
    return np.ascontiguousarray(rows_in_order_of(tensor, per_column.reshape(-1, 1))).reshape(-1)


def constant_in_order_of(tensor: Tensor, constant: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a constant that broadcasts against Keras's tensor so that it broadcasts against `tensor` as it lies here."""
    if constant.size == 1:
        return constant.reshape(())
    full = constant.reshape((1,) * (tensor.rank - constant.ndim) + constant.shape)
    if tensor.layout is Layout.CHANNELS_FIRST:
        return full.transpose(0, tensor.rank - 1, *range(1, tensor.rank - 1))
    if tensor.layout is Layout.FLATTENED_CHANNELS_FIRST:
        return columns_in_order_of(tensor, np.broadcast_to(full, (1, int(np.prod(tensor.image))))[0]).reshape(1, -1)
    return full
