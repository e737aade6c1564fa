"""LSTM with integers: onnxruntime's DynamicQuantizeLSTM, two to eight times as fast as its float kernel.

The operator is onnxruntime's own (domain com.microsoft); its weights are stored as [directions, inputs, 4 * hidden].
There is no such kernel for GRU and RNN, whose weights are only stored as int8.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from quantize.dynamic.rounding import Rounded, round_without_saturation
from quantize.weights.editing import GraphEditor, numbers_of, shape_of, weight_of

DOMAIN = "com.microsoft"
FEWEST_WEIGHTS = 4096
_ATTRIBUTES = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget"}


def integer_lstms(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the LSTM nodes whose kernel takes integers."""
    for node in graph:
        if node.op_type != "LSTM" or node.domain != "" or node.attributes.get_int("layout", 0):
            continue
        weights = [weight_of(node, place) for place in (1, 2)]
        if all(weight is not None and np.prod(shape_of(weight)) >= FEWEST_WEIGHTS for weight in weights):
            yield node


def write_integer_lstm(model: ir.Model, node: ir.Node) -> None:
    """Replace an LSTM by one with integers."""
    model.opset_imports[DOMAIN] = 1
    editor = GraphEditor(model.graph, node)
    parts = {letter: _constants(editor, node, place) for place, letter in ((1, "w"), (2, "r"))}
    given = [*node.inputs, *(8 - len(node.inputs)) * [None]]
    inputs = [given[0], parts["w"][0], parts["r"][0], *given[3:8], *parts["w"][1:], *parts["r"][1:]]
    attributes = {name: one for name, one in node.attributes.items() if name in _ATTRIBUTES}
    names = [f"{node.name}/{place}" if output.name else "" for place, output in enumerate(node.outputs)]
    results = editor.add("DynamicQuantizeLSTM", inputs, f"{node.name}/integers", attributes, outputs=names, domain=DOMAIN)
    editor.replace(results)


def _constants(editor: GraphEditor, node: ir.Node, place: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return the integers, the scales and the zero points of a weight [directions, 4 * hidden, inputs]."""
    weight = weight_of(node, place)
    if weight is None:
        raise AssertionError(f"{node.name} has no constant weights")
    directions, outputs, inputs = shape_of(weight)

    def rounded() -> Rounded:
        return round_without_saturation(np.ascontiguousarray(np.swapaxes(numbers_of(weight), 1, 2)))

    name = f"{node.name}/{place}"
    return (
        editor.constant(f"{name}/q", (directions, inputs, outputs), lambda: rounded().elements, "int8"),
        editor.constant(f"{name}/s", (directions, outputs), lambda: rounded().scales),
        editor.constant(f"{name}/z", (directions, outputs), lambda: np.zeros((directions, outputs), np.int8), "int8"),
    )
