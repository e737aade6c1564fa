"""Passes that remove transposes: transposed weights are stored transposed, and consumers of transposed images are adapted.

A graph from a channels-last framework has a Transpose around everything that is not a convolution. Afterwards one is left at an
image input, and one before each operator that needs another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.passes.values import add_initializer, can_replace, constant_of, input_of, is_constant, replace_node
from edgewright.graphs.lazy_weights import LazyWeight

NewWeight = tuple[tuple[int, ...], Callable[[], npt.NDArray[Any]]]
"""The new shape of a weight, and the function that computes its contents."""

_REDUCTIONS = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"}


def fold_weights(model: ir.Model) -> str:
    """Fold a Transpose, Reshape or Mul of a weight of any size into the weight; it is computed when it is written."""
    folded = 0
    for node in list(model.graph):
        if node.op_type not in _FOLDED_OPERATORS or node.outputs[0].is_graph_output() or not _is_float_weight(node.inputs[0]):
            continue
        if node.op_type == "Reshape" and not is_constant(node.inputs[1]):
            continue
        if node.op_type == "Mul" and not _is_float_weight(node.inputs[1]):
            continue
        shape, load = _FOLDED_OPERATORS[node.op_type](node)
        weight = add_initializer(model.graph, LazyWeight(f"{node.outputs[0].name}/folded", shape, load))
        replace_node(model.graph, node, weight)
        folded += 1
    return f"folded {folded} operations into weights" if folded else ""


def merge_transposes(model: ir.Model) -> str:
    """Merge two Transposes in a row, and remove both if they cancel."""
    merged = 0
    for node in list(model.graph):
        before = input_of(node, 0).producer() if node.op_type == "Transpose" else None
        if before is None or before.op_type != "Transpose":
            continue
        first, second = before.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
        together = [first[axis] for axis in second]
        if together == sorted(together) and can_replace(node.outputs[0], input_of(before, 0)):
            replace_node(model.graph, node, input_of(before, 0))
        else:
            node.replace_input_with(0, input_of(before, 0))
            node.attributes["perm"] = ir.AttrInt64s("perm", together)
        merged += 1
    return f"merged {merged} pairs of Transpose" if merged else ""


def reduce_without_transpose(model: ir.Model) -> str:
    """Reduce the axes of the untransposed tensor, when the remaining axes keep their order."""
    changed = 0
    for node in list(model.graph):
        before = node.inputs[0].producer() if node.op_type in _REDUCTIONS and node.inputs[0] is not None else None
        if before is None or before.op_type != "Transpose" or len(node.inputs) < 2 or not is_constant(node.inputs[1]):
            continue
        if "keepdims" not in node.attributes or node.attributes["keepdims"].as_int():
            continue
        order = before.attributes["perm"].as_ints()
        axes = [order[int(axis)] for axis in constant_of(node.inputs[1]).reshape(-1)]
        remaining = [axis for axis in order if axis not in axes]
        if not axes or remaining != sorted(remaining):
            continue
        node.replace_input_with(0, before.inputs[0])
        tensor = ir.tensor(np.asarray(axes, np.int64), name=f"{node.name or node.outputs[0].name}/axes")
        node.replace_input_with(1, add_initializer(model.graph, tensor))
        changed += 1
    return f"removed the Transpose before {changed} reductions" if changed else ""


def flatten_in_channel_order(model: ir.Model) -> str:
    """Flatten an untransposed image, and reorder the rows of the matrix that multiplies it."""
    changed = 0
    for node in list(model.graph):
        reshape = node.inputs[0].producer() if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None else None
        transpose = _flattened_transpose(reshape, node) if reshape is not None else None
        if reshape is None or transpose is None:
            continue
        image = transpose.inputs[0]
        flat = ir.node("Flatten", [image], attributes={"axis": 1}, name=f"{reshape.name or reshape.outputs[0].name}/Flatten")
        flat.outputs[0].name = f"{reshape.outputs[0].name}/in_channel_order"
        model.graph.insert_before(node, flat)
        node.replace_input_with(0, flat.outputs[0])
        node.replace_input_with(1, _reordered_rows(model.graph, node.inputs[1], transpose))
        changed += 1
    return f"reordered the rows of {changed} matrices after flattened images" if changed else ""


def _flattened_transpose(reshape: ir.Node, matrix: ir.Node) -> ir.Node | None:
    """Return the Transpose directly before `reshape`, if the product's rows are flattened images and nothing else."""
    is_reshape = reshape.op_type in ("Reshape", "Flatten") and reshape.inputs[0] is not None
    transpose = reshape.inputs[0].producer() if is_reshape else None
    if transpose is None or transpose.op_type != "Transpose" or transpose.attributes["perm"].as_ints()[0] != 0:
        return None
    plain = not any(name in matrix.attributes and matrix.attributes[name].as_int() for name in ("transA", "transB"))
    if not plain or not _is_float_weight(matrix.inputs[1]) or len(matrix.inputs[1].shape) != 2:
        return None
    sizes, rows, rank = _image_sizes(transpose.inputs[0]), int(matrix.inputs[1].shape[0]), _rank_after(reshape)
    # A product needs as many columns as the weight has rows, so a flat tensor of that width is one whole image.
    return transpose if sizes and math.prod(sizes) == rows and rank == 2 else None


def _image_sizes(value: ir.Value | None) -> tuple[int, ...]:
    """Return the sizes after the batch axis, or an empty tuple if one of them is free."""
    if value is None or value.shape is None:
        return ()
    sizes = tuple(value.shape.dims[1:])
    return tuple(int(size) for size in sizes) if all(isinstance(size, int) for size in sizes) else ()


def _rank_after(reshape: ir.Node) -> int | None:
    if reshape.op_type == "Flatten":
        return 2 if "axis" not in reshape.attributes or reshape.attributes["axis"].as_int() == 1 else None
    shape = reshape.inputs[1].shape if reshape.inputs[1] is not None else None
    if shape is not None and len(shape) == 1 and isinstance(shape[0], int):
        return int(shape[0])
    return len(reshape.outputs[0].shape) if reshape.outputs[0].shape is not None else None


def _is_float_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.dtype is ir.DataType.FLOAT


def _transposed(node: ir.Node) -> NewWeight:
    weight, order = node.inputs[0].const_value, node.attributes["perm"].as_ints()
    return tuple(int(weight.shape[axis]) for axis in order), lambda: weight.numpy().transpose(order)


def _reshaped(node: ir.Node) -> NewWeight:
    weight = node.inputs[0].const_value
    target = [int(size) or int(weight.shape[axis]) for axis, size in enumerate(constant_of(node.inputs[1]))]
    product = math.prod(size for size in target if size != -1)
    shape = tuple(weight.size // product if size == -1 else size for size in target)
    return shape, lambda: weight.numpy().reshape(shape)


def _scaled(node: ir.Node) -> NewWeight:
    weight, scale = node.inputs[0].const_value, node.inputs[1].const_value
    shape = np.broadcast_shapes(*(tuple(int(size) for size in tensor.shape) for tensor in (weight, scale)))
    return shape, lambda: weight.numpy() * scale.numpy()


_FOLDED_OPERATORS: dict[str, Callable[[ir.Node], NewWeight]] = {"Transpose": _transposed, "Reshape": _reshaped, "Mul": _scaled}


def _reordered_rows(graph: ir.Graph, value: ir.Value, transpose: ir.Node) -> ir.Value:
    weight, order = value.const_value, transpose.attributes["perm"].as_ints()
    sizes = _image_sizes(transpose.inputs[0])
    rows, columns = (int(size) for size in weight.shape)
    transposed = [sizes[axis - 1] for axis in order[1:]]
    inverse = [order.index(axis) - 1 for axis in range(1, len(order))]

    def load() -> npt.NDArray[Any]:
        matrix: npt.NDArray[Any] = weight.numpy()
        return matrix.reshape(*transposed, columns).transpose(*inverse, len(transposed)).reshape(rows, columns)

    return add_initializer(graph, LazyWeight(f"{value.name}/in_channel_order", (rows, columns), load))
