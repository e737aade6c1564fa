"""Rules for Keras's sequence layers: Embedding, LSTM, GRU, SimpleRNN, and Bidirectional around them.

Keras has the batch axis first, ONNX the time axis; the order of the gates differs too (ONNX operators LSTM and GRU, operator set
14), so weights are rearranged. A layer returns its state at every step or only the last. Masked steps are in masks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_keras.activations import Rule
from convert.from_keras.call import Call, Floats
from convert.from_keras.layouts import Tensor
from convert.from_keras.masks import Compaction

_TIME_FIRST = (1, 0, 2)
_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_MERGES = {"sum": "Add", "mul": "Mul", "ave": "Add"}


@dataclass(frozen=True, slots=True)
class _Cell:
    """ONNX operator of a recurrent layer, and the order of its gates."""

    operator: str
    gates: tuple[int, ...]
    """Index in Keras's weights of each gate in ONNX's order."""
    activations: tuple[str, ...]
    """Attributes of Keras's cell for the activations in ONNX's order."""


_LSTM = _Cell("LSTM", (0, 3, 1, 2), ("recurrent_activation", "activation", "activation"))
_GRU = _Cell("GRU", (0, 1, 2), ("recurrent_activation", "activation"))
_SIMPLE = _Cell("RNN", (0,), ("activation",))
_CELLS = {"LSTM": _LSTM, "GRU": _GRU, "SimpleRNN": _SIMPLE}


def _embedding(call: Call) -> Tensor:
    layer, x = call.layer, call.native()
    before = x.value.producer()
    indices = before.inputs[0] if before is not None and before.op_type == "Cast" else None
    if indices is None or indices.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
        indices = call.node("Cast", x.value, to=int(ir.DataType.INT64))
    table = call.weight("embeddings", (int(layer.input_dim), int(layer.output_dim)))
    return call.result(call.node("Gather", table, indices, axis=0))


def _recurrent(call: Call) -> Tensor:
    layer = call.layer
    if layer.go_backwards and layer.return_sequences:
        raise call.unsupported("go_backwards=True with return_sequences=True; use Bidirectional, or reverse the input")
    states = _states(call, backwards=layer.go_backwards)
    return call.result(_returned(call, states, backwards=layer.go_backwards))


def _bidirectional(call: Call) -> Tensor:
    layer = call.layer
    if type(layer.forward_layer).__name__ not in _CELLS or layer.merge_mode not in ("concat", *_MERGES):
        inner = type(layer.forward_layer).__name__
        raise call.unsupported(
            f"a Bidirectional {inner} with merge_mode={layer.merge_mode!r}; only LSTM, GRU and SimpleRNN are supported"
        )
    forward = replace(call, layer=layer.forward_layer, path=f"{call.path}/forward")
    backward = replace(call, layer=layer.backward_layer, path=f"{call.path}/backward")
    first = _returned(forward, _states(forward, backwards=False), backwards=False)
    second = _returned(backward, _states(backward, backwards=True), backwards=True)
    if layer.merge_mode == "concat":
        return call.result(call.node("Concat", first, second, axis=-1))
    merged = call.node(_MERGES[layer.merge_mode], first, second)
    if layer.merge_mode == "ave":
        merged = call.node("Mul", merged, call.constant("half", 0.5))
    return call.result(merged)


def _states(call: Call, *, backwards: bool) -> ir.Value:
    """Return the state at every step, [time, batch, units], in the order of the input."""
    layer, cell = call.layer, _CELLS[type(call.layer).__name__]
    if layer.stateful or layer.return_state or len(call.inputs) != 1:
        raise call.unsupported("states that are inputs, outputs or kept between calls")
    inner = replace(call, layer=layer.cell)
    compaction = None if call.mask is None else Compaction.of(call, call.mask)
    steps = call.native().value if compaction is None else compaction.front(call.native().value)
    x = call.node("Transpose", steps, perm=list(_TIME_FIRST))
    weights = _weights(inner, cell)
    if compaction is not None:
        weights = [*weights, *[None] * (3 - len(weights)), compaction.lengths]
    attributes: dict[str, Any] = {"linear_before_reset": int(layer.cell.reset_after)} if cell is _GRU else {}
    value = call.node(
        cell.operator,
        x,
        *weights,
        hidden_size=int(layer.units),
        direction="reverse" if backwards else "forward",
        activations=[_activation(call, getattr(layer.cell, name)) for name in cell.activations],
        **attributes,
    )
    states = call.node("Squeeze", value, call.integers("direction", [1]))
    if compaction is None:
        return states
    moved = call.node("Transpose", states, perm=list(_TIME_FIRST))
    zeros = bool(getattr(layer, "zero_output_for_mask", False))
    return call.node("Transpose", compaction.back(moved, backwards=backwards, zeros=zeros), perm=list(_TIME_FIRST))


def _returned(call: Call, states: ir.Value, *, backwards: bool) -> ir.Value:
    """Return the layer's output, batch first: all states, or the last one computed."""
    if call.layer.return_sequences:
        return call.node("Transpose", states, perm=list(_TIME_FIRST))
    return call.node("Gather", states, call.integers("last", 0 if backwards else -1), axis=0)


def _weights(call: Call, cell: _Cell) -> list[ir.Value | None]:
    units, count = int(call.layer.units), len(cell.gates)
    features = int(call.layer.kernel.shape[0])

    def rows(kernel: Floats) -> Floats:
        return _in_order(kernel.T.reshape(count, units, -1), cell).reshape(1, count * units, -1)

    weights: list[ir.Value | None] = [
        call.weight("kernel", (1, count * units, features), rows),
        call.weight("recurrent_kernel", (1, count * units, units), rows),
    ]
    if call.layer.use_bias:
        weights.append(call.weight("bias", (1, 2 * count * units), _biases(cell, count, units)))
    return weights


def _biases(cell: _Cell, count: int, units: int) -> Callable[[Floats], Floats]:
    """Return a function that joins the biases of input and state; Keras's layer may have the first only."""

    def arranged(bias: Floats) -> Floats:
        both = np.zeros((2, count, units), np.float32)
        rows = bias.reshape(-1, count, units)
        both[: len(rows)] = rows
        return np.stack([_in_order(part, cell) for part in both]).reshape(1, -1)

    return arranged


def _in_order(gates: Floats, cell: _Cell) -> Floats:
    return gates[list(cell.gates)]


def _activation(call: Call, function: Any) -> str:
    name = getattr(function, "__name__", repr(function))
    if name not in _ACTIVATIONS or not str(getattr(function, "__module__", "")).startswith("keras."):
        raise call.unsupported(f"the activation {name!r}; only {', '.join(_ACTIVATIONS)} are supported")
    return _ACTIVATIONS[name]


RECURRENT: dict[str, Rule] = {
    "Embedding": _embedding,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
    "Bidirectional": _bidirectional,
}
"""Rules by class name."""
