"""One operator of a file with its tensors: the argument of every rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_tflite.file import Array, Operator, Tensor
from convert.from_tflite.network import Network, Order, permutation, real_values
from edgewright.errors import ModelError

_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
_LIMITS = {"RELU": (0.0, None), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0)}

SAME = 0
"""Value of the schema's `Padding`; the other one is VALID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operator, the order of axes in which its rule works, and the graph that the rule extends."""

    network: Network
    operator: Operator
    where: str
    order: Order

    @property
    def options(self) -> Any:
        """The operator's options; their names are the schema's."""
        return self.operator.options

    @property
    def count(self) -> int:
        """The number of inputs."""
        return len(self.operator.inputs)

    @property
    def quantized(self) -> bool:
        """The operator computes with quantized numbers: its result or an input that is not a constant is quantized."""
        inputs = [self.tensor(number) for number in range(self.count) if self.has(number)]
        varying = [tensor for tensor in (*inputs, self.output) if tensor.constant is None]
        return any(tensor.quantization is not None for tensor in varying)

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.network.tensor(self.operator.outputs[0])

    def has(self, number: int) -> bool:
        """Return whether the optional input `number` is given."""
        return number < self.count and self.operator.inputs[number] >= 0

    def tensor(self, number: int) -> Tensor:
        """Return the tensor of input `number`."""
        return self.network.tensor(self.operator.inputs[number])

    def rank(self, number: int = 0) -> int:
        """Return the number of axes of input `number`."""
        return len(self.tensor(number).shape)

    def value(self, number: int = 0, order: Order | None = None) -> ir.Value:
        """Return input `number` in the order of axes of this call, or in `order`."""
        order = order or self.order
        tensor, rank = self.tensor(number), len(self.output.shape)
        if tensor.constant is not None and order is Order.CHANNELS_FIRST and tensor.constant.ndim != rank:
            return self._broadcast(tensor, rank)
        return self.network.value(self.operator.inputs[number], order, quantized=self.quantized)

    def weight(self, number: int, axes: Sequence[int]) -> ir.Value:
        """Return the constant input `number` with its axes in the order `axes`."""
        self.constant(number)
        return self.network.weight(self.operator.inputs[number], axes, quantized=self.quantized)

    def constant(self, number: int) -> Array:
        """Return the numbers that the constant input `number` stands for."""
        tensor = self.tensor(number)
        if tensor.constant is None:
            raise self.unsupported(f"input {number} must be a constant")
        return real_values(tensor)

    def is_constant(self, number: int) -> bool:
        """Return whether input `number` is a constant."""
        return self.tensor(number).constant is not None

    def indices(self, number: int) -> ir.Value:
        """Return an integer input (a shape, axes, positions) in int64."""
        if self.is_constant(number):
            return self.integers("indices", self.constant(number))
        return self.node("Cast", self.value(number), to=int(ir.DataType.INT64))

    def axis(self, axis: int, number: int = 0) -> int:
        """Return the axis of the value that corresponds to an axis of input `number` in the file."""
        axis %= max(self.rank(number), 1)
        return permutation(self.rank(number), self.order).index(axis) if self.order is Order.CHANNELS_FIRST else axis

    def node(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Append a node with one output and return that output."""
        return self.network.emit.node(operator, list(inputs), where=self.where, **attributes)

    def integers(self, name: str, values: Any) -> ir.Value:
        """Return a new int64 constant."""
        return self.network.emit.integers(f"{self.where}/{name}", values)

    def like(self, number: int, value: float) -> ir.Value:
        """Return a new scalar constant of the type of input `number`."""
        tensor = self.tensor(number)
        dtype = np.dtype(np.float32) if tensor.quantization is not None else tensor.dtype
        return self.network.emit.constant(f"{self.where}/constant", np.asarray(value, dtype))

    def clipped(self, value: ir.Value, low: float, high: float) -> ir.Value:
        """Return `value`, limited to the range from `low` to `high`."""
        limits = [self.network.emit.floats(f"{self.where}/limit", limit) for limit in (low, high)]
        return self.node("Clip", value, *limits)

    def activated(self, value: ir.Value) -> ir.Value:
        """Return `value` after the operator's fused activation."""
        name = _ACTIVATIONS[self.options.fusedActivationFunction if self.options is not None else 0]
        if name == "NONE":
            return value
        if name == "TANH":
            return self.node("Tanh", value)
        if name not in _LIMITS:
            raise self.unsupported(f"the activation {name} has no counterpart in ONNX")
        if self.output.dtype.kind == "i" and self.output.quantization is None:
            raise self.unsupported(f"the activation {name} of integers has no counterpart in ONNX")
        low, high = _LIMITS[name]
        return self.node("Relu", value) if high is None else self.clipped(value, low, high)

    def unsupported(self, reason: str) -> ModelError:
        """Return the error for an operator that cannot be converted."""
        return ModelError(f"{self.network.path}: operator {self.operator.kind} of {self.where} cannot be converted: {reason}")

    def _broadcast(self, tensor: Tensor, rank: int) -> ir.Value:
        """Return a constant of lower rank, with axes of size 1 before its own, in channels-first order."""
        values = real_values(tensor)
        full = values.reshape((1,) * (rank - values.ndim) + values.shape).transpose(permutation(rank, Order.CHANNELS_FIRST))
        return self.network.emit.constant(f"{self.where}/constant", np.ascontiguousarray(full))


Function = Callable[[Call], ir.Value | list[ir.Value]]


@dataclass(frozen=True, slots=True)
class Rule:
    """The function that converts an operator, and the order of axes that it works in."""

    function: Function
    order: Order | None = Order.NATIVE
    """None: the order in which the inputs are; for functions that treat all axes alike, or ask for `Call.axis`."""
