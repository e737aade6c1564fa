"""Passes that reduce a graph to nodes that compute something: functions, constants, identities, names, shapes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir
from onnx_ir.passes import common

from convert.passes.values import can_replace, constant_of, input_of, replace_node
from edgewright.errors import one_line
from edgewright.graphs import shape_inference

log = logging.getLogger(__name__)

_MAX_FOLDED_ELEMENTS = 1 << 16
_NEVER_FOLDED = {"QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}


def inline_functions(model: ir.Model) -> str:
    """Inline the model's own functions."""
    return "inlined functions" if model.functions and common.InlinePass()(model).modified else ""


def sort_nodes(model: ir.Model) -> str:
    """Sort nodes topologically."""
    return "sorted nodes" if common.TopologicalSortPass()(model).modified else ""


def lift_constants(model: ir.Model) -> str:
    """Convert Constant nodes to initializers, and initializers that are also inputs to plain ones."""
    lifted = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified
    inputs = common.RemoveInitializersFromInputsPass()(model).modified
    return "lifted constants" if lifted or inputs else ""


def remove_identities(model: ir.Model) -> str:
    """Remove nodes that return their input: Identity, and Dropout at inference."""
    removed = 0
    for node in list(model.graph):
        if _is_inactive_dropout(node) or _is_removable_identity(node):
            replace_node(model.graph, node, input_of(node, 0))
            removed += 1
    return f"removed {removed} nodes that return their input" if removed else ""


def fold_constants(model: ir.Model) -> str:
    """Compute nodes whose inputs are all small constants."""
    folded = 0
    for node in list(model.graph):
        if not _is_foldable(node):
            continue
        try:
            results = _evaluate(node, model)
        except Exception as error:  # noqa: BLE001  the reference evaluator refuses what the runtime accepts
            log.info("left a constant node operator=%s reason=%r", node.op_type, one_line(error))
            continue
        for output, result in zip(node.outputs, results, strict=True):
            constant = ir.Value(name=f"{output.name}/folded", const_value=ir.tensor(result, name=f"{output.name}/folded"))
            model.graph.register_initializer(constant)
            output.replace_all_uses_with(constant)
        model.graph.remove(node, safe=True)
        folded += 1
    return f"computed {folded} constant nodes" if folded else ""


def name_everything(model: ir.Model) -> str:
    """Give every node and value a unique name: quantization selects nodes by name, and an empty name selects all of them."""
    for number, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{number}"
    return "named nodes and values" if common.NameFixPass()(model).modified else ""


def infer_shapes(model: ir.Model) -> str:
    """Infer the shape of every value, for quantization and accelerators."""
    return "inferred shapes" if shape_inference.infer_shapes(model) else ""


def _is_removable_identity(node: ir.Node) -> bool:
    return node.op_type == "Identity" and node.domain == "" and can_replace(node.outputs[0], input_of(node, 0))


def _is_inactive_dropout(node: ir.Node) -> bool:
    """Return whether a Dropout returns its input: it is not in training mode, and its mask is unused."""
    if node.op_type != "Dropout" or any(output.is_graph_output() for output in node.outputs):
        return False
    if any(mask.uses() for mask in node.outputs[1:]):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    return training is None or (training.const_value is not None and not constant_of(training).any())


def _is_foldable(node: ir.Node) -> bool:
    if node.op_type in _NEVER_FOLDED or node.domain not in ("", "ai.onnx") or not node.inputs:
        return False
    if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()):
        return False
    if any(output.is_graph_output() for output in node.outputs):
        return False
    tensors = [value.const_value for value in node.inputs if value is not None]
    return all(tensor is not None and tensor.size <= _MAX_FOLDED_ELEMENTS for tensor in tensors)


def _evaluate(node: ir.Node, model: ir.Model) -> list[npt.NDArray[Any]]:
    named = [(f"input_{index}", value) for index, value in enumerate(node.inputs) if value is not None]
    proto = onnx.NodeProto()
    proto.CopyFrom(ir.to_proto(node))
    proto.input[:] = [f"input_{index}" if value is not None else "" for index, value in enumerate(node.inputs)]
    proto.output[:] = [f"output_{index}" for index in range(len(node.outputs))]
    opset = onnx.helper.make_opsetid("", model.opset_imports.get("", 1))
    evaluator = onnx.reference.ReferenceEvaluator(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                [proto],
                "constant",
                [onnx.helper.make_value_info(name, onnx.TypeProto()) for name, _ in named],
                [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output],
            ),
            opset_imports=[opset],
        )
    )
    results = evaluator.run(None, {name: constant_of(value) for name, value in named})
    return [np.asarray(result) for result in results]
