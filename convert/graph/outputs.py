"""Record what the outputs of a graph predict, as far as the source or the graph shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgewright.contracts.variant import Measure, TensorSpec

_COPYING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice"}
"""Operators that keep the values of their first input."""
_QUANTIZING = {"QuantizeLinear", "DynamicQuantizeLinear"}


def with_measures(graph: ir.Graph, specs: Sequence[TensorSpec], predicted: str) -> tuple[TensorSpec, ...]:
    """Return the specs with the measures of the outputs: what the graph shows, and `predicted` for the first other of floats."""
    measured = [replace(spec, measure=_shown(value)) for spec, value in zip(specs, graph.outputs, strict=True)]
    first = next((place for place, spec in enumerate(measured) if not spec.measure and spec.dtype.startswith("float")), None)
    if first is not None and predicted:
        measured[first] = replace(measured[first], measure=str(predicted))
    return tuple(measured)


def _shown(value: ir.Value) -> str:
    """Return the measure that the graph shows: copies of inputs, quantized tensors, results without floats; else empty."""
    if value.dtype is None or value.dtype.is_floating_point():
        return Measure.COPY.value if _copies(value) else ""
    if _is_quantized(value):
        return Measure.VALUES.value
    if _has_floats(value):
        return ""
    return Measure.COPY.value if _copies(value) else Measure.EXACT.value


def _is_quantized(value: ir.Value) -> bool:
    """Return True for the integers of a quantized tensor, which stand for real numbers."""
    node = value.producer()
    while node is not None and node.op_type in _COPYING and node.op_type != "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and (node.op_type in _QUANTIZING or node.op_type.startswith("QLinear"))


def _has_floats(value: ir.Value) -> bool:
    """Return True if a float, or a value of unknown type, takes part in computing `value`."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if part in seen:
            continue
        seen.add(part)
        node = part.producer()
        if part.dtype is None or part.dtype.is_floating_point() or (node is not None and _has_subgraph(node)):
            return True
        waiting += [given for given in (node.inputs if node is not None else ()) if given is not None]
    return False


def _has_subgraph(node: ir.Node) -> bool:
    return any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values())


def _copies(value: ir.Value) -> bool:
    """Return True if a value holds the numbers of an input or of a constant, unchanged."""
    node = value.producer()
    while node is not None:
        source = node.inputs[0] if node.inputs else None
        if node.op_type not in _COPYING or source is None:
            return str(node.op_type) == "Constant"
        node = source.producer()
    return True
