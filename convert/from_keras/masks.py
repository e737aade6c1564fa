"""Masks of Keras: steps of a sequence that layers skip, such as padding.

Keras computes a mask with operations beside the layers (`x != 0`) and passes it to every layer that uses it, so it is a tensor of
the graph here, too: boolean, [batch, time]. A recurrent layer keeps its state in a masked step. ONNX's operators only take a
length per sample, so the steps that count are moved to the front (`Compaction`), and the states back to their places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from convert.from_keras.activations import Rule
from convert.from_keras.call import Call
from convert.from_keras.layouts import Tensor

_BOOL, _FLOAT = int(ir.DataType.BOOL), int(ir.DataType.FLOAT)
_INT32, _INT64 = int(ir.DataType.INT32), int(ir.DataType.INT64)

USERS = {"LSTM", "GRU", "SimpleRNN", "Bidirectional", "GlobalAveragePooling1D", "TimeDistributed", "BatchNormalization"}
"""Layers with a rule that may get a mask; batch normalization uses it only in training."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """The steps of each sample that count, moved to the front in their order."""

    call: Call
    mask: ir.Value
    """Boolean, [batch, time]."""
    count: ir.Value
    """Number of steps up to each one that count, int64 [batch, time]."""
    lengths: ir.Value
    """Number of steps that count, int32 [batch]."""
    order: ir.Value
    """Place in time of each moved step, int64 [batch, time]."""

    @classmethod
    def of(cls, call: Call, mask: ir.Value) -> Compaction:
        """Emit the nodes that compute the order of the steps."""
        ones, axis, zero = call.node("Cast", mask, to=_INT64), call.integers("time", [1]), call.integers("zero", 0)
        total = call.node("ReduceSum", ones, axis, keepdims=0)
        size = call.node("Shape", mask, start=1, end=2)
        size_scalar = call.node("Squeeze", size)
        places = call.node("Range", zero, size_scalar, call.integers("one", 1))
        late = call.node("Add", places, size_scalar)
        keys = call.node("Where", mask, places, late)
        sorted_keys = call.emit.nodes("TopK", [keys, size], where=call.path, count=2, axis=1, largest=0, sorted=1)
        count = call.node("CumSum", ones, call.integers("axis", 1))
        return cls(call, mask, count, call.node("Cast", total, to=_INT32), sorted_keys[1])

    def front(self, x: ir.Value) -> ir.Value:
        """Return [batch, time, features] with the steps that count first."""
        return self._picked(x, self.order)

    def back(self, states: ir.Value, *, backwards: bool, zeros: bool) -> ir.Value:
        """Return the state at every step, [batch, time, units]; a masked step has the one before it, or zeros.

        Args:
            states: of the moved steps, [batch, time, units], with zeros after the last one.
            backwards: the steps were processed from the last to the first.
            zeros: masked steps have zeros.
        """
        call = self.call
        one = call.integers("step", 1)
        before = call.node("Sub", self.count, call.node("Cast", self.mask, to=_INT64) if backwards else one)
        exists = call.node("GreaterOrEqual", before, call.integers("first", 0))
        if backwards:
            lengths = call.node("Unsqueeze", call.node("Cast", self.lengths, to=_INT64), call.integers("columns", [1]))
            exists = call.node("Less", before, lengths)
        size = call.node("Shape", self.mask, start=1, end=2)
        last = call.node("Sub", size, one)
        place = call.node("Min", call.node("Max", before, call.integers("start", 0)), last)
        kept = call.node("And", exists, self.mask) if zeros else exists
        factor = call.node("Unsqueeze", call.node("Cast", kept, to=_FLOAT), call.integers("features", [2]))
        return call.node("Mul", self._picked(states, place), factor)

    def _picked(self, x: ir.Value, places: ir.Value) -> ir.Value:
        index = self.call.node("Unsqueeze", places, self.call.integers("features", [2]))
        return self.call.node("GatherND", x, index, batch_dims=1)


def masked_average(call: Call, mask: ir.Value) -> Tensor:
    """Return the mean over the steps that count."""
    weights = call.node("Unsqueeze", call.node("Cast", mask, to=_FLOAT), call.integers("features", [2]))
    axis, keep = call.integers("time", [1]), int(call.layer.keepdims)
    total = call.node("ReduceSum", call.node("Mul", call.native().value, weights), axis, keepdims=keep)
    return call.result(call.node("Div", total, call.node("ReduceSum", weights, axis, keepdims=keep)))


def _masking(call: Call) -> Tensor:
    x = call.native()
    counts = _any(call, _differs(call, x.value, float(call.layer.mask_value)), [-1], keepdims=1)
    return call.result(call.node("Mul", x.value, call.node("Cast", counts, to=_FLOAT)))


def _not_equal(call: Call) -> Tensor:
    if len(call.inputs) != 1 or len(call.operands) != 2:
        raise call.unsupported("it must compare a tensor with a number")
    (number,) = (operand for operand in call.operands if not isinstance(operand, Tensor))
    if number.size != 1:
        raise call.unsupported("it must compare a tensor with one number")
    return call.result(_differs(call, call.native().value, float(number.reshape(()))))


def _differs(call: Call, x: ir.Value, number: float) -> ir.Value:
    return call.node("Not", call.node("Equal", x, call.constant("masked", number)))


def _any_step(call: Call) -> Tensor:
    axis = call.layer.axis
    if axis is None:
        raise call.unsupported("it must have an axis")
    axes = [axis] if isinstance(axis, int) else list(axis)
    return call.result(_any(call, call.native().value, axes, keepdims=int(call.layer.keepdims)))


def _any(call: Call, x: ir.Value, axes: list[int], *, keepdims: int) -> ir.Value:
    numbers = call.node("Cast", x, to=_FLOAT)
    largest = call.node("ReduceMax", numbers, call.integers("axes", axes), keepdims=keepdims)
    return call.node("Cast", largest, to=_BOOL)


def _logical(operator: str) -> Rule:
    def apply(call: Call) -> Tensor:
        if len(call.inputs) != 2:
            raise call.unsupported("it must have two tensors")
        return call.result(call.node(operator, *(call.layouts.native(x).value for x in call.inputs)))

    return apply


def _expand(call: Call) -> Tensor:
    axes = np.atleast_1d(call.layer.axis)
    return call.result(call.node("Unsqueeze", call.native().value, call.integers("axes", axes)))


def _same_shape(*, truth: bool) -> Rule:
    def fill(call: Call) -> Tensor:
        if str(call.layer.dtype) != "bool":
            raise call.unsupported(f"its dtype is {call.layer.dtype}; only bool is supported")
        shape = call.node("Shape", call.native().value)
        return call.result(call.node("ConstantOfShape", shape, value=ir.tensor(np.array([truth]))))

    return fill


def _concatenate(call: Call) -> Tensor:
    values = [call.layouts.native(x).value for x in call.inputs]
    return call.result(call.node("Concat", *values, axis=int(call.layer.axis)))


MASK_OPERATIONS: dict[str, Rule] = {
    "ExpandDims": _expand,
    "ZerosLike": _same_shape(truth=False),
    "OnesLike": _same_shape(truth=True),
    "Concatenate": _concatenate,
    "ConvertToTensor": lambda call: call.only,
    "NotEqual": _not_equal,
    "Any": _any_step,
    "LogicalAnd": _logical("And"),
    "LogicalOr": _logical("Or"),
}
"""Rules of operations between layers, by class name."""

MASKING: dict[str, Rule] = {"Masking": _masking}
"""Rules of layers, by class name."""
