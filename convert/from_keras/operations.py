"""Rules for operations between layers (`x + 3`, `keras.ops.relu(x)`), as in the gates of MobileNetV3."""

from __future__ import annotations

from dataclasses import replace

from convert.from_keras.activations import FUNCTIONS, Rule
from convert.from_keras.call import Call
from convert.from_keras.layers import merging
from convert.from_keras.layouts import Tensor, constant_in_order_of
from convert.from_keras.masks import MASK_OPERATIONS


def _binary(operator: str) -> Rule:
    def apply(call: Call) -> Tensor:
        if len(call.operands) != 2:
            raise call.unsupported("it must have two operands, tensors or numbers")
        if all(isinstance(operand, Tensor) for operand in call.operands):
            if len({tensor.rank for tensor in call.inputs}) > 1:
                raise call.unsupported("its tensors have different ranks; reshape one of them first")
            return merging(operator)(call)
        if tuple(call.output_shape) != tuple(call.only.shape):
            raise call.unsupported("its constant changes the shape of the tensor")
        left, right = (
            operand.value if isinstance(operand, Tensor) else call.constant("number", constant_in_order_of(call.only, operand))
            for operand in call.operands
        )
        return replace(call.only, value=call.node(operator, left, right))

    return apply


def _function(name: str) -> Rule:
    return lambda call: FUNCTIONS[name](call, call.only)


def _unary(operator: str) -> Rule:
    return lambda call: call.like_input(call.node(operator, call.only.value))


OPERATIONS: dict[str, Rule] = {
    **MASK_OPERATIONS,
    "Add": _binary("Add"),
    "Subtract": _binary("Sub"),
    "Multiply": _binary("Mul"),
    "Divide": _binary("Div"),
    "TrueDivide": _binary("Div"),
    "Maximum": _binary("Max"),
    "Minimum": _binary("Min"),
    "Relu": _function("relu"),
    "Relu6": _function("relu6"),
    "Sigmoid": _function("sigmoid"),
    "Silu": _function("silu"),
    "Tanh": _function("tanh"),
    "Exp": _unary("Exp"),
    "Sqrt": _unary("Sqrt"),
    "Absolute": _unary("Abs"),
    "Negative": _unary("Neg"),
}
"""Rules by class name, for operations whose result depends on their operands only."""
