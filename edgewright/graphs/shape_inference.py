"""Infer shapes and types of all values; sequences and optional values keep their own types.

onnx_ir's pass gives a sequence of tensors the type of a tensor, which no runtime loads. Runtimes infer the types of sequences, so
they need none in the graph.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

_SEQUENCES = {
    *("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence"),
    *("Optional",),
}
_PASS_ON = {"Identity", "If", "Loop", "OptionalGetElement"}
"""Operators whose result may be a sequence, because an input or a result of a subgraph is one."""


def infer_shapes(model: ir.Model) -> bool:
    """Infer the shape and type of every value; return True if that changed the model."""
    untyped = [value for node in model.graph.all_nodes() for value in node.outputs if value.type is None]
    modified = bool(common.ShapeInferencePass(strict_mode=False)(model).modified)
    sequences = _sequences(model)
    for value in untyped:
        if value in sequences:
            value.type, value.shape = None, None
    return modified


def _sequences(model: ir.Model) -> set[ir.Value]:
    """Return all values that hold sequences or optional values."""
    ends = [*model.graph.inputs, *(value for graph in model.graph.subgraphs() for value in (*graph.inputs, *graph.outputs))]
    found = {value for value in ends if isinstance(value.type, (ir.SequenceType, ir.OptionalType))}
    grows = True
    while grows:
        before = len(found)
        for node in model.graph.all_nodes():
            if node.domain == "":
                found.update(_results(node, found))
        grows = len(found) > before
    return found


def _results(node: ir.Node, sequences: set[ir.Value]) -> list[ir.Value]:
    """Return the results of a node that are sequences."""
    if node.op_type in _SEQUENCES:
        return list(node.outputs)
    if node.op_type not in _PASS_ON:
        return []
    bodies = [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]
    skipped = 1 if node.op_type == "Loop" else 0  # the body of a loop also returns its condition
    inner = [body.outputs[place + skipped] for body in bodies for place in range(len(node.outputs))]
    if bodies:
        return [node.outputs[place % len(node.outputs)] for place, value in enumerate(inner) if value in sequences]
    return list(node.outputs) if node.inputs[0] in sequences else []
