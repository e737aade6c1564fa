"""Minify the graph of a variant: in a network for a microcontroller, names and shapes are a tenth of all bytes.

metadata  remove types and shapes of inner tensors, which every runtime infers, and doc strings
defaults  remove attributes that equal the defaults of the standard
share     merge equal constants of the featurizer: most activations have the same zero point. Those of the head stay separate,
          because a retrained head may make them unequal, and the graph must not change with it. Zero points of weights stay
          separate, too: onnxruntime 1.32 refuses shared or absent ones where its exact kernels need unsigned weights
rename    shorten the quantizer's names (`conv1/Relu_DequantizeLinear_Output` to `conv1/Relu/dq`); number parameters and weights
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

_SHORT = {"_DequantizeLinear_Output": "/dq", "_QuantizeLinear_Input": "/in", "_quantized": "/q"}
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
_SHARED_BYTES = 64
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"group": 1, "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "auto_pad": "NOTSET"},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "MaxPool": {
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "ceil_mode": 0,
        "storage_order": 0,
        "auto_pad": "NOTSET",
    },
    "AveragePool": {
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "ceil_mode": 0,
        "count_include_pad": 0,
        "auto_pad": "NOTSET",
    },
    "Flatten": {"axis": 1},
    "Softmax": {"axis": -1},
    "DequantizeLinear": {"axis": 1, "block_size": 0},
    "QuantizeLinear": {"axis": 1, "block_size": 0, "saturate": 1},
}


def minify(model: ir.Model, in_head: Mapping[ir.Node, bool]) -> None:
    """Minify `model` in place; `in_head` is True for every node of the head."""
    graph = model.graph
    _remove_metadata(graph)
    _drop_defaults(graph)
    _share(graph, in_head)
    _rename(graph)


def _remove_metadata(graph: ir.Graph) -> None:
    graph.doc_string = None
    for node in graph:
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.type, value.shape = None, None
    for value in graph.initializers.values():
        value.metadata_props.clear()


def _drop_defaults(graph: ir.Graph) -> None:
    for node in graph:
        defaults = _DEFAULTS.get(node.op_type, {}) if node.domain in ("", "ai.onnx") else {}
        for name, attribute in list(node.attributes.items()):
            value = tuple(attribute.value) if isinstance(attribute.value, list | tuple) else attribute.value
            if name in defaults and value == defaults[name]:
                del node.attributes[name]


def _share(graph: ir.Graph, in_head: Mapping[ir.Node, bool]) -> None:
    """Merge equal small constants of the featurizer."""
    first: dict[tuple[Any, ...], ir.Value] = {}
    for node in graph:
        for place, value in enumerate(node.inputs):
            tensor = None if value is None or not value.is_initializer() else value.const_value
            if (
                value is None
                or tensor is None
                or tensor.nbytes > _SHARED_BYTES
                or any(in_head[user] for user in value.consumers())
                or (place == 2 and node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer())
            ):
                continue
            kept = first.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()), value)
            node.replace_input_with(place, kept)
    for name, value in list(graph.initializers.items()):
        if not value.consumers() and not value.is_graph_output():
            del graph.initializers[name]


def _rename(graph: ir.Graph) -> None:
    """Number the tensors that only quantizers read, and shorten the names of those that replace a tensor of the float graph."""
    taken = {str(value.name) for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
    numbered: set[ir.Value] = set()
    for node in graph:
        if node.op_type not in _QUANTIZERS:
            continue
        node.name = None
        parameters = [value for value in node.inputs[1:] if value is not None and value.is_initializer()]
        numbers = node.op_type == "QuantizeLinear" or node.inputs[0].is_initializer()
        inner = [value for value in node.outputs if numbers and not value.is_graph_output()]
        for value in (*inner, *parameters):
            if value not in numbered:
                value.name = _free("q" if value in inner else "s", taken)
                numbered.add(value)
        for value in (*node.inputs[:1], *node.outputs):
            if value is not None and value not in numbered and not value.is_graph_output():
                value.name = _short(str(value.name))


def _free(kind: str, taken: set[str]) -> str:
    """Return the first name `q0`, `q1`, … without a tensor."""
    name = next(name for name in (f"{kind}{number}" for number in itertools.count()) if name not in taken)
    taken.add(name)
    return name


def _short(name: str) -> str:
    for long, short in _SHORT.items():
        if name.endswith(long):
            return name.removesuffix(long) + short
    return name
