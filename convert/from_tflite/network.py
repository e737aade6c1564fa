"""The graph so far: a value for each tensor of the file.

A quantized tensor stands for real numbers. Its value in the graph is those numbers in float32, after QuantizeLinear and
DequantizeLinear with the file's scale and zero point, so it takes exactly the values that the file's integers can. Images are
kept in channels-first order between the operators that need it, and are transposed at most once.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from convert.from_tflite.file import Array, Quantization, Tensor, TfliteFile
from convert.graph.emit import Emitter

_STORED = {"INT8", "UINT8", "INT16"}
"""Types of quantized tensors that QuantizeLinear writes."""


class Order(enum.Enum):
    """Order of the axes of a value."""

    NATIVE = enum.auto()
    """The order of the file: channels last."""
    CHANNELS_FIRST = enum.auto()
    """The last axis is second, after the batch."""


@dataclass(frozen=True, slots=True)
class _Placed:
    value: ir.Value
    order: Order


class Network:
    """Values of the graph by tensor of the file."""

    def __init__(self, file: TfliteFile, emit: Emitter) -> None:
        self.emit = emit
        self.path = file.path
        self._tensors = list(file.tensors)
        self._values: dict[int, dict[Order, ir.Value]] = {}

    def tensor(self, index: int) -> Tensor:
        """Return the tensor with that number."""
        return self._tensors[index]

    def make_constant(self, index: int, source: int) -> None:
        """Make a tensor a constant with the stored values of the constant `source`."""
        stored = self._tensors[source]
        self._tensors[index] = replace(self._tensors[index], constant=stored.constant, quantization=stored.quantization)

    def is_in(self, index: int, order: Order) -> bool:
        """Return whether the value is in that order without a transposition."""
        return order in self._values.get(index, ())

    def value(self, index: int, order: Order = Order.NATIVE, *, quantized: bool = False) -> ir.Value:
        """Return the value of a tensor.

        Args:
            index: the tensor's number.
            order: order of the axes.
            quantized: a quantized constant stays quantized; otherwise it becomes float32.
        """
        tensor = self._tensors[index]
        if tensor.constant is not None:
            return self.weight(index, _order_of(tensor, order), quantized=quantized)
        values = self._values[index]
        if order not in values:
            perm = permutation(len(tensor.shape), order)
            (other,) = values.values()
            values[order] = self.emit.node("Transpose", [other], where=str(other.name), perm=list(perm))
        return values[order]

    def put(self, index: int, value: ir.Value, order: Order = Order.NATIVE) -> None:
        """Set the value of a tensor; a quantized tensor is rounded to the values that its integers stand for."""
        quantization = self._tensors[index].quantization
        if quantization is not None and self._tensors[index].type_name in _STORED:
            value = self._rounded(index, value, quantization)
        self._values[index] = {order: value}

    def weight(self, index: int, order: Sequence[int], *, quantized: bool) -> ir.Value:
        """Return a constant with its axes in `order`, as float32 or as integers with a DequantizeLinear."""
        tensor = self._tensors[index]
        if tensor.constant is None:
            raise ValueError(f"{tensor.name} is not a constant")
        stored, quantization, name = tensor.constant, tensor.quantization, short(tensor.name)
        if quantization is not None and quantized and stored.dtype != np.int64:
            axis = 0 if quantization.per_tensor else list(order).index(quantization.axis)
            return self._dequantized(name, stored.transpose(order), quantization, axis)
        if quantization is None and tensor.constant.dtype.kind != "f" and tensor.constant.dtype.name != "bfloat16":
            return self.emit.constant(name, stored.transpose(order))
        shape = tuple(stored.shape[axis] for axis in order)
        return self.emit.weight(
            (index, tuple(order)), name, shape, lambda: np.ascontiguousarray(real_values(tensor).transpose(order))
        )

    def _rounded(self, index: int, value: ir.Value, quantization: Quantization) -> ir.Value:
        where = short(self._tensors[index].name)
        scale, point = self._parameters(where, quantization, self._tensors[index].dtype)
        stored = self.emit.node("QuantizeLinear", [value, scale, point], where=where)
        return self.emit.node("DequantizeLinear", [stored, scale, point], where=where)

    def _dequantized(self, name: str, stored: Array, quantization: Quantization, axis: int) -> ir.Value:
        scale, point = self._parameters(name, quantization, stored.dtype)
        integers = self.emit.constant(name, np.ascontiguousarray(_unsigned(stored) if stored.dtype == np.int8 else stored))
        parameters = [scale] if stored.dtype == np.int32 else [scale, point]
        return self.emit.node("DequantizeLinear", [integers, *parameters], where=name, axis=axis)

    def _parameters(self, name: str, quantization: Quantization, dtype: np.dtype[np.generic]) -> tuple[ir.Value, ir.Value]:
        shape = () if quantization.per_tensor else quantization.scales.shape
        scale = self.emit.constant(f"{name}/scale", quantization.scales.reshape(shape))
        points = _unsigned(quantization.zero_points) if dtype == np.int8 else quantization.zero_points.astype(dtype)
        return scale, self.emit.constant(f"{name}/zero_point", points.reshape(shape))


def _unsigned(stored: Array) -> Array:
    """Return 8-bit integers moved from -128..127 to 0..255, which with the zero point moved as well are the same numbers.

    x86 processors without VNNI saturate sums of products of unsigned and signed integers, but not those of two unsigned ones;
    onnxruntime 1.32 also fails to load some graphs of signed ones.
    """
    return np.asarray(stored.astype(np.int16) + 128, np.uint8)


def real_values(tensor: Tensor) -> Array:
    """Return the numbers that a constant stands for: float32, or its own integers where it is not quantized."""
    stored, quantization = np.asarray(tensor.constant), tensor.quantization
    if quantization is None:
        return stored.astype(np.float32) if stored.dtype.kind == "f" or stored.dtype.name == "bfloat16" else stored
    shape = [1] * stored.ndim
    if not quantization.per_tensor:
        shape[quantization.axis] = -1
    scales, points = quantization.scales.reshape(shape), quantization.zero_points.reshape(shape)
    if quantization.per_tensor:
        scales, points = scales.reshape(()), points.reshape(())
    return np.asarray((stored.astype(np.int64) - points).astype(np.float32) * scales, np.float32)


def permutation(rank: int, order: Order) -> tuple[int, ...]:
    """Return the order of the axes that brings a value of the other order into `order`."""
    return (0, rank - 1, *range(1, rank - 1)) if order is Order.CHANNELS_FIRST else (0, *range(2, rank), 1)


def short(name: str) -> str:
    """Return the first of the layers that a converter has joined in a tensor's name, without the output's number."""
    return name.split(";")[0].removesuffix(":0").rstrip("/") or "tensor"


def _order_of(tensor: Tensor, order: Order) -> tuple[int, ...]:
    rank = np.asarray(tensor.constant).ndim
    return permutation(rank, order) if order is Order.CHANNELS_FIRST else tuple(range(rank))
