"""What Keras's sequence layers are in ONNX: Embedding, LSTM, GRU, SimpleRNN, and Bidirectional around them.

Keras keeps the batch first and its gates in one order, ONNX keeps the time first and has another (the specification's LSTM and
GRU, operator set 14); weights are rearranged once. A layer gives its state at every step, or only the last. Masks are not known:
they would say for each sample which steps count, and ONNX knows only how many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_keras.activations import Rule
from convert.from_keras.call import Call, Numbers
from convert.from_keras.layouts import Tensor

_TIME_FIRST = (1, 0, 2)
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_MERGES = {"sum": "Add", "mul": "Mul", "ave": "Add"}


@dataclass(frozen=True, slots=True)
class _Cell:
    """How a kind of layer is written."""

    operator: str
    gates: tuple[int, ...]
    """Where ONNX's gates lie in Keras's weights."""
    activations: tuple[str, ...]
    """The attributes of Keras's cell that give ONNX's activations."""


_LSTM = _Cell("LSTM", (0, 3, 1, 2), ("recurrent_activation", "activation", "activation"))
_GRU = _Cell("GRU", (0, 1, 2), ("recurrent_activation", "activation"))
_SIMPLE = _Cell("RNN", (0,), ("activation",))
_CELLS = {"LSTM": _LSTM, "GRU": _GRU, "SimpleRNN": _SIMPLE}


def _embedding(call: Call) -> Tensor:
    layer, x = call.layer, call.native()
    if layer.mask_zero:
        raise call.unsupported("mask_zero=True; give what stands for padding its own row and train it with mask_zero=False")
    before = x.value.producer()
    given = before.inputs[0] if before is not None and before.op_type == "Cast" else None
    if given is None or given.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
        given = call.node("Cast", x.value, to=int(ir.DataType.INT64))
    table = call.weight("embeddings", (int(layer.input_dim), int(layer.output_dim)))
    return call.result(call.node("Gather", table, given, axis=0))


def _recurrent(call: Call) -> Tensor:
    layer = call.layer
    if layer.go_backwards and layer.return_sequences:
        raise call.unsupported("go_backwards=True with return_sequences=True; use Bidirectional, or turn the input around")
    states = _states(call, backwards=layer.go_backwards)
    return call.result(_given(call, states, backwards=layer.go_backwards))


def _bidirectional(call: Call) -> Tensor:
    layer = call.layer
    if type(layer.forward_layer).__name__ not in _CELLS or layer.merge_mode not in ("concat", *_MERGES):
        inside = type(layer.forward_layer).__name__
        raise call.unsupported(f"{inside} inside with merge_mode={layer.merge_mode!r}; LSTM, GRU and SimpleRNN can be merged")
    forward = replace(call, layer=layer.forward_layer, path=f"{call.path}/forward")
    backward = replace(call, layer=layer.backward_layer, path=f"{call.path}/backward")
    first = _given(forward, _states(forward, backwards=False), backwards=False)
    second = _given(backward, _states(backward, backwards=True), backwards=True)
    if layer.merge_mode == "concat":
        return call.result(call.node("Concat", first, second, axis=-1))
    merged = call.node(_MERGES[layer.merge_mode], first, second)
    if layer.merge_mode == "ave":
        merged = call.node("Mul", merged, call.constant("half", 0.5))
    return call.result(merged)


def _states(call: Call, *, backwards: bool) -> ir.Value:
    """Return the state at every step, [time, batch, units], in the order of the input's time."""
    layer, kind = call.layer, _CELLS[type(call.layer).__name__]
    if layer.stateful or layer.return_state or len(call.inputs) != 1:
        raise call.unsupported("states that are given in, given out or kept between calls")
    inner = replace(call, layer=layer.cell)
    x = call.node("Transpose", call.native().value, perm=list(_TIME_FIRST))
    attributes: dict[str, Any] = {"linear_before_reset": int(layer.cell.reset_after)} if kind is _GRU else {}
    value = call.node(
        kind.operator,
        x,
        *_weights(inner, kind),
        hidden_size=int(layer.units),
        direction="reverse" if backwards else "forward",
        activations=[_activation(call, getattr(layer.cell, name)) for name in kind.activations],
        **attributes,
    )
    return call.node("Squeeze", value, call.integers("direction", [1]))


def _given(call: Call, states: ir.Value, *, backwards: bool) -> ir.Value:
    """Return what the layer gives of its states, batch first: all of them, or the one that it reached last."""
    if call.layer.return_sequences:
        return call.node("Transpose", states, perm=list(_TIME_FIRST))
    return call.node("Gather", states, call.integers("last", 0 if backwards else -1), axis=0)


def _weights(call: Call, kind: _Cell) -> list[ir.Value]:
    cell, units, count = call.layer, int(call.layer.units), len(kind.gates)
    features = int(cell.kernel.shape[0])

    def rows(numbers: Numbers) -> Numbers:
        return _in_order(numbers.T.reshape(count, units, -1), kind).reshape(1, count * units, -1)

    made = [
        call.weight("kernel", (1, count * units, features), rows),
        call.weight("recurrent_kernel", (1, count * units, units), rows),
    ]
    if cell.use_bias:
        made.append(call.weight("bias", (1, 2 * count * units), _biases(kind, count, units)))
    return made


def _biases(kind: _Cell, count: int, units: int) -> Callable[[Numbers], Numbers]:
    """Return what makes the biases of the input and of the state, one after the other; Keras may have only the first."""

    def arranged(numbers: Numbers) -> Numbers:
        both = np.zeros((2, count, units), np.float32)
        rows = numbers.reshape(-1, count, units)
        both[: len(rows)] = rows
        return np.stack([_in_order(one, kind) for one in both]).reshape(1, -1)

    return arranged


def _in_order(gates: Numbers, kind: _Cell) -> Numbers:
    return gates[list(kind.gates)]


def _activation(call: Call, function: Any) -> str:
    name = getattr(function, "__name__", repr(function))
    if name not in _ACTIVATIONS or not str(getattr(function, "__module__", "")).startswith("keras."):
        raise call.unsupported(f"the activation {name!r}; {', '.join(_ACTIVATIONS)} are supported")
    return _ACTIVATIONS[name]


RECURRENT: dict[str, Rule] = {
    "Embedding": _embedding,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
    "Bidirectional": _bidirectional,
}
"""By class name."""
