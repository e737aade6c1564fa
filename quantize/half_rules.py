"""The operators that half precision may compute: those whose numbers it can hold.

operator    its types allow half precision, and it neither sums many terms nor exponentiates; it holds no other graph
largest     weights and values of the samples stay far below the largest number of half precision
smallest    no constant is below the smallest normal number, where half precision has few digits or only zero
guards      values computed from such a constant stay float32 as well, up to the operator that divides by them:
            `x / max(n, 1e-12)` is 0 / 0 for a row of zeros if any step rounds 1e-12
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from edgewright.graphs.bodies import bodies, inner_nodes

log = logging.getLogger(__name__)

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).tiny)
MARGIN = 4.0
"""The values of the samples must stay below the limit by this factor, because other samples may be larger."""

FLOAT32_OPERATORS = {
    "Cast",
    "CumSum",
    "Exp",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "NonMaxSuppression",
    "Pow",
    "RMSNormalization",
    "Range",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "RoiAlign",
    "Softmax",
    "TopK",
}
_SCATTERS = {"ScatterElements", "ScatterND"}
"""Operators for which onnxruntime has no kernel in half precision that reduces; a sum of many terms belongs in float32 anyway."""
_TYPE_ATTRIBUTES = {"dtype", "output_dtype", "output_datatype"}
_SUMS = {"Add", "Sub", "Sum", "Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Concat", "RNN", "GRU", "LSTM"}
"""Operators where a small number beside larger ones adds nothing: only a constant that is small as a whole counts."""
_SCALES = {"Mul", "Div", "Pow", "PRelu", "LeakyRelu", "Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators that a small constant scales: its result has the size that the samples show, it is no guard against zero."""
_HIDES_ITS_INPUT = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Log", "RNN", "GRU", "LSTM", "Sigmoid", "Softmax", "Exp"}
"""Operators whose output has an ordinary size for the smallest input."""

Ranges = Mapping[str, tuple[float, float]]


def halvable(graph: ir.Graph, ranges: Ranges, opset: int) -> list[str]:
    """Return the names of the nodes that half precision may compute, in the order of the graph."""
    small = _near_small_constants(graph)
    return [
        str(node.name) for node in graph if node not in small and (_can_be_half(node, ranges, opset) or captured_weights(node))
    ]


def captured_weights(node: ir.Node) -> list[ir.Value]:
    """Return the weights outside of the bodies of `node` that these read, and that half precision can store.

    The bodies compute in float32, because the range of the values inside them is not known.
    """
    weights = dict.fromkeys(
        (value, one) for one in inner_nodes(node) for value in one.inputs if value is not None and value.graph is node.graph
    )
    return [value for value, user in weights if _is_float(value) and _fits(value.const_value, user)]


def _fits(tensor: ir.TensorProtocol | None, user: ir.Node) -> bool:
    return tensor is not None and not _is_small(tensor, user) and bool(np.abs(tensor.numpy()).max(initial=0.0) <= LARGEST)


def half_inputs(node: ir.Node, opset: int) -> list[int]:
    """Return the places of the float inputs that the ONNX standard allows in half precision."""
    if bodies(node):
        return []
    return [
        place
        for place, value in enumerate(node.inputs)
        if value is not None and _is_float(value) and "tensor(float16)" in _allowed(node, opset, place)[1]
    ]


def _can_be_half(node: ir.Node, ranges: Ranges, opset: int) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in FLOAT32_OPERATORS or not _keeps_its_type(node, opset):
        return False
    floats = [value for value in (*node.inputs, *node.outputs) if value is not None and _is_float(value)]
    largest = max((_largest(value, ranges) for value in floats), default=0.0)
    if largest > LARGEST / MARGIN or any(0 < _largest(value, ranges) < SMALLEST for value in floats):
        log.info("kept in float32 node=%s largest_value=%g", node.name, largest)
        return False
    return bool(floats)


def _keeps_its_type(node: ir.Node, opset: int) -> bool:
    """Return True if the float outputs have the type of the float inputs, and half precision is among the allowed ones."""
    if bodies(node) or _TYPE_ATTRIBUTES & set(node.attributes) or not onnx.defs.has(node.op_type, opset):
        return False
    reduction = node.attributes.get("reduction")
    if node.op_type in _SCATTERS and reduction is not None and reduction.as_string() != "none":
        return False
    others = [value for value in node.outputs if value.dtype is ir.DataType.FLOAT and not _is_float(value)]
    given = {_allowed(node, opset, place)[0] for place in half_inputs(node, opset)}
    wanted = {_allowed(node, opset, place, output=True)[0] for place, value in enumerate(node.outputs) if _is_float(value)}
    return not others and wanted <= given


def _allowed(node: ir.Node, opset: int, place: int, *, output: bool = False) -> tuple[str, set[str]]:
    """Return the name and the allowed types of an input or output in the operator's schema; the last one may repeat."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    formal = schema.outputs if output else schema.inputs
    one = formal[min(place, len(formal) - 1)]
    return one.type_str, set(one.types)


def _is_float(value: ir.Value) -> bool:
    """Return True for a float32 tensor; a sequence of them has the same `dtype`."""
    return value.dtype is ir.DataType.FLOAT and isinstance(value.type, ir.TensorType)


def _largest(value: ir.Value, ranges: Ranges) -> float:
    if value.const_value is not None:
        numbers = value.const_value.numpy()
        return float(np.abs(numbers).max()) if numbers.size else 0.0
    return max(map(abs, ranges.get(str(value.name), (0.0, 0.0))))


def _near_small_constants(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that use a small constant, or a value computed from one, up to those that divide by it."""
    small: set[ir.Value] = set()
    users: set[ir.Node] = set()
    for node in graph:
        tainted = {place for place, value in enumerate(node.inputs) if value in small}
        if tainted or _has_small_constant(node):
            users.add(node)
            if _passes_on(node, tainted) if tainted else node.op_type not in _SCALES:
                small.update(node.outputs)
    return users


def _has_small_constant(node: ir.Node) -> bool:
    if any(one.type is ir.AttributeType.FLOAT and 0 < abs(one.as_float()) < SMALLEST for one in node.attributes.values()):
        return True
    if any(one.type is ir.AttributeType.TENSOR and _is_small(one.as_tensor(), node) for one in node.attributes.values()):
        return True
    return any(value is not None and _is_float(value) and _is_small(value.const_value, node) for value in node.inputs)


def _is_small(tensor: ir.TensorProtocol | None, node: ir.Node) -> bool:
    """Return True if a constant has elements that half precision cannot hold, where they matter to `node`."""
    if tensor is None or tensor.dtype is not ir.DataType.FLOAT:
        return False
    sizes = np.abs(tensor.numpy())
    sizes = sizes[sizes > 0]
    return bool(sizes.size) and float(sizes.max() if node.op_type in _SUMS else sizes.min()) < SMALLEST


def _passes_on(node: ir.Node, small: set[int]) -> bool:
    """Return True if the output is as small as the inputs at the places `small`, or its inverse: the others are constants."""
    others = [value for place, value in enumerate(node.inputs) if value is not None and place not in small]
    constant = all(value.const_value is not None or not _is_float(value) for value in others)
    return constant and node.op_type not in _HIDES_ITS_INPUT
