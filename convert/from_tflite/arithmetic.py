"""Rules for operators that compute element by element, activations, and reductions.

They treat all axes alike, so an image stays in channels-first order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from convert.from_tflite.call import Call, Function, Rule
from convert.from_tflite.network import Order, permutation


def _unary(operator: str) -> Rule:
    return Rule(lambda call: call.node(operator, call.value(0)), None)


def _binary(operator: str) -> Rule:
    return Rule(lambda call: call.activated(call.node(operator, call.value(0), call.value(1))), None)


def _compare(operator: str, *, negated: bool = False) -> Rule:
    def function(call: Call) -> ir.Value:
        result = call.node(operator, call.value(0), call.value(1))
        return call.node("Not", result) if negated else result

    return Rule(function, None)


def _each(function: Function) -> Rule:
    return Rule(function, None)


def _clip(low: float, high: float) -> Rule:
    return Rule(lambda call: call.clipped(call.value(0), low, high), None)


def _rsqrt(call: Call) -> ir.Value:
    return call.node("Reciprocal", call.node("Sqrt", call.value(0)))


def _square(call: Call) -> ir.Value:
    return call.node("Mul", call.value(0), call.value(0))


def _squared_difference(call: Call) -> ir.Value:
    difference = call.node("Sub", call.value(0), call.value(1))
    return call.node("Mul", difference, difference)


def _floor_div(call: Call) -> ir.Value:
    if call.tensor(0).dtype.kind == "f":
        return call.node("Floor", call.node("Div", call.value(0), call.value(1)))
    remainder = call.node("Mod", call.value(0), call.value(1))  # has the divisor's sign, so this quotient is exact
    return call.node("Div", call.node("Sub", call.value(0), remainder), call.value(1))


def _floor_mod(call: Call) -> ir.Value:
    if call.tensor(0).dtype.kind != "f":
        return call.node("Mod", call.value(0), call.value(1))
    quotient = call.node("Floor", call.node("Div", call.value(0), call.value(1)))
    return call.node("Sub", call.value(0), call.node("Mul", quotient, call.value(1)))


def _leaky_relu(call: Call) -> ir.Value:
    return call.node("LeakyRelu", call.value(0), alpha=float(call.options.alpha))


def _gelu(call: Call) -> ir.Value:
    return call.node("Gelu", call.value(0), approximate="tanh" if call.options.approximate else "none")


def _where(call: Call) -> ir.Value:
    if call.rank(0) not in (0, call.rank(1)) and call.operator.kind == "SELECT":
        raise call.unsupported("the condition must have the shape of the values")
    return call.node("Where", call.value(0), call.value(1), call.value(2))


def _cast(call: Call) -> ir.Value:
    if call.tensor(0).quantization is not None or call.output.quantization is not None:
        raise call.unsupported("it reads the integers of a quantized tensor")
    return call.node("Cast", call.value(0), to=int(ir.DataType.from_numpy(call.output.dtype)))


def _softmax(call: Call) -> ir.Value:
    beta = float(call.options.beta)
    value = call.value(0) if beta == 1.0 else call.node("Mul", call.value(0), call.like(0, beta))
    return call.node("Softmax", value, axis=call.axis(-1))


def _log_softmax(call: Call) -> ir.Value:
    return call.node("LogSoftmax", call.value(0), axis=call.axis(-1))


def _l2_normalization(call: Call) -> ir.Value:
    norm = call.node("ReduceL2", call.value(0), call.integers("axes", [call.axis(-1)]), keepdims=1)
    least = call.network.emit.floats(f"{call.where}/least", 1e-6)
    return call.activated(call.node("Div", call.value(0), call.node("Max", norm, least)))


def _concatenation(call: Call) -> ir.Value:
    joined = [call.value(number) for number in range(call.count)]
    return call.activated(call.node("Concat", *joined, axis=call.axis(call.options.axis)))


def _largest(call: Call) -> list[ir.Value]:
    """Convert TOPK_V2: the largest values along the last axis and their positions, the lower one first among equal values."""
    count = call.node("Reshape", call.indices(1), call.integers("one", [1]))
    values, places = call.network.emit.nodes(
        "TopK", [call.value(0), count], where=call.where, count=2, axis=call.rank() - 1, largest=1, sorted=1
    )
    return [values, call.node("Cast", places, to=int(ir.DataType.INT32))]


def _add_n(call: Call) -> ir.Value:
    return call.node("Sum", *(call.value(number) for number in range(call.count)))


def _reduction(operator: str) -> Rule:
    return Rule(lambda call: _reduced(call, operator, call.value(0, _free_order(call))))


def _boolean_reduction(operator: str) -> Rule:
    def function(call: Call) -> ir.Value:
        numbers = call.node("Cast", call.value(0, _free_order(call)), to=int(ir.DataType.INT32))
        return call.node("Cast", _reduced(call, operator, numbers), to=int(ir.DataType.BOOL))

    return Rule(function)


def _reduced(call: Call, operator: str, value: ir.Value) -> ir.Value:
    axes = _axes(call)
    if _free_order(call) is Order.CHANNELS_FIRST:
        axes = [permutation(call.rank(), Order.CHANNELS_FIRST).index(axis) for axis in axes]
    if not axes:
        return value
    return call.node(operator, value, call.integers("axes", sorted(axes)), keepdims=int(call.options.keepDims))


def _free_order(call: Call) -> Order:
    """Return the order in which the reduction needs no transposition; the axes that remain must keep their order."""
    rank, index = call.rank(), call.operator.inputs[0]
    in_first = call.network.is_in(index, Order.CHANNELS_FIRST) and not call.network.is_in(index, Order.NATIVE)
    spatial = set(range(1, rank - 1)) <= set(_axes(call))
    return Order.CHANNELS_FIRST if in_first and spatial and not call.options.keepDims else Order.NATIVE


def _axes(call: Call) -> list[int]:
    return sorted({int(axis) % max(call.rank(), 1) for axis in np.atleast_1d(call.constant(1))})


def _arg(operator: str) -> Rule:
    def function(call: Call) -> ir.Value:
        axis = int(call.constant(1).reshape(-1)[0])
        best = call.node(operator, call.value(0), axis=call.axis(axis), keepdims=0)
        return call.node("Cast", best, to=int(ir.DataType.from_numpy(call.output.dtype)))

    return Rule(function)


def _cumsum(call: Call) -> ir.Value:
    flags = {"exclusive": int(call.options.exclusive), "reverse": int(call.options.reverse)}
    return call.node("CumSum", call.value(0), call.integers("axis", int(call.constant(1).reshape(-1)[0])), **flags)


def _same(call: Call) -> ir.Value:
    return call.value(0)


_UNARY = {
    "ABS": "Abs",
    "CEIL": "Ceil",
    "COS": "Cos",
    "ELU": "Elu",
    "EXP": "Exp",
    "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish",
    "LOG": "Log",
    "LOGICAL_NOT": "Not",
    "LOGISTIC": "Sigmoid",
    "NEG": "Neg",
    "RELU": "Relu",
    "ROUND": "Round",
    "SIGN": "Sign",
    "SIN": "Sin",
    "SQRT": "Sqrt",
    "TANH": "Tanh",
}
_BINARY = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
_PLAIN_BINARY = {
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "POW": "Pow",
    "PRELU": "PRelu",
    "EQUAL": "Equal",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual",
    "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual",
    "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or",
}
_EACH: dict[str, Callable[[Call], ir.Value]] = {
    "ADD_N": _add_n,
    "CAST": _cast,
    "CONCATENATION": _concatenation,
    "DEQUANTIZE": _same,
    "FLOOR_DIV": _floor_div,
    "FLOOR_MOD": _floor_mod,
    "GELU": _gelu,
    "L2_NORMALIZATION": _l2_normalization,
    "LEAKY_RELU": _leaky_relu,
    "LOG_SOFTMAX": _log_softmax,
    "QUANTIZE": _same,
    "RSQRT": _rsqrt,
    "SELECT": _where,
    "SELECT_V2": _where,
    "SOFTMAX": _softmax,
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _squared_difference,
}
_REDUCTIONS = {
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
}

RULES: dict[str, Rule] = {
    **{kind: _unary(operator) for kind, operator in _UNARY.items()},
    **{kind: _binary(operator) for kind, operator in _BINARY.items()},
    **{kind: _compare(operator) for kind, operator in _PLAIN_BINARY.items()},
    **{kind: _each(function) for kind, function in _EACH.items()},
    **{kind: _reduction(operator) for kind, operator in _REDUCTIONS.items()},
    "NOT_EQUAL": _compare("Equal", negated=True),
    "REDUCE_ANY": _boolean_reduction("ReduceMax"),
    "REDUCE_ALL": _boolean_reduction("ReduceMin"),
    "RELU6": _clip(0.0, 6.0),
    "RELU_N1_TO_1": _clip(-1.0, 1.0),
    "RELU_0_TO_1": _clip(0.0, 1.0),
    "ARG_MAX": _arg("ArgMax"),
    "ARG_MIN": _arg("ArgMin"),
    "CUMSUM": Rule(_cumsum),
    "TOPK_V2": Rule(_largest),
}
