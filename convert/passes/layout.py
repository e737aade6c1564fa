"""Passes that take transposes out: those of weights (and their scales) into the weights, those of images into what reads them.

A graph that came from channels-last code has them around everything that is not a convolution. What is left afterwards is the one
at an image input, and any before an operator that really needs another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgewright.graphs.lazy_weights import LazyWeight

Change = tuple[tuple[int, ...], Callable[[], npt.NDArray[Any]]]
"""The new shape of a weight, and what computes its numbers."""

_REDUCTIONS = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"}


def fold_weights(model: ir.Model) -> str:
    """Transpose, reshape and scale weights where they lie; of whatever size, they change when they are written."""
    folded = 0
    for node in list(model.graph):
        if node.op_type not in _CHANGES or node.outputs[0].is_graph_output() or not _is_float_weight(node.inputs[0]):
            continue
        if node.op_type == "Reshape" and not _is_constant(node.inputs[1]):
            continue
        if node.op_type == "Mul" and not _is_float_weight(node.inputs[1]):
            continue
        shape, load = _CHANGES[node.op_type](node)
        _replace(model.graph, node, _weight(model.graph, f"{node.outputs[0].name}/folded", shape, load))
        folded += 1
    return f"changed {folded} weights where they lie" if folded else ""


def reduce_without_transpose(model: ir.Model) -> str:
    """Reduce the axes where they lie, when the order of those that remain is the same."""
    changed = 0
    for node in list(model.graph):
        before = node.inputs[0].producer() if node.op_type in _REDUCTIONS and node.inputs[0] is not None else None
        if before is None or before.op_type != "Transpose" or len(node.inputs) < 2 or not _is_constant(node.inputs[1]):
            continue
        if "keepdims" not in node.attributes or node.attributes["keepdims"].as_int():
            continue
        order = before.attributes["perm"].as_ints()
        axes = [order[int(axis)] for axis in _numbers(node.inputs[1]).reshape(-1)]
        remaining = [axis for axis in order if axis not in axes]
        if not axes or remaining != sorted(remaining):
            continue
        node.replace_input_with(0, before.inputs[0])
        node.replace_input_with(
            1, _constant(model.graph, f"{node.name or node.outputs[0].name}/axes", np.asarray(axes, np.int64))
        )
        changed += 1
    return f"took the Transpose from {changed} reductions" if changed else ""


def flatten_in_channel_order(model: ir.Model) -> str:
    """Flatten an image as it lies, and put the rows of the matrix behind it into that order."""
    changed = 0
    for node in list(model.graph):
        reshape = node.inputs[0].producer() if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None else None
        turn = _flattened_transpose(reshape, node) if reshape is not None else None
        if reshape is None or turn is None:
            continue
        image = turn.inputs[0]
        flat = ir.node("Flatten", [image], attributes={"axis": 1}, name=f"{reshape.name or reshape.outputs[0].name}/Flatten")
        flat.outputs[0].name = f"{reshape.outputs[0].name}/in_channel_order"
        model.graph.insert_before(node, flat)
        node.replace_input_with(0, flat.outputs[0])
        node.replace_input_with(1, _reordered_rows(model.graph, node.inputs[1], turn))
        changed += 1
    return f"put {changed} matrices behind flattened images into channel order" if changed else ""


def _flattened_transpose(reshape: ir.Node, matrix: ir.Node) -> ir.Node | None:
    """Return the Transpose right before `reshape`, if all of it is one image per row of a plain product with a weight."""
    turn = reshape.inputs[0].producer() if reshape.op_type in ("Reshape", "Flatten") and reshape.inputs[0] is not None else None
    if turn is None or turn.op_type != "Transpose" or turn.attributes["perm"].as_ints()[0] != 0:
        return None
    plain = not any(name in matrix.attributes and matrix.attributes[name].as_int() for name in ("transA", "transB"))
    if not plain or not _is_float_weight(matrix.inputs[1]) or len(matrix.inputs[1].shape) != 2:
        return None
    sizes, rows, rank = _image_sizes(turn.inputs[0]), int(matrix.inputs[1].shape[0]), _rank_after(reshape)
    # A product needs as many columns as the weight has rows, so a flat tensor of that width is the image and nothing else.
    return turn if sizes and math.prod(sizes) == rows and rank == 2 else None


def _image_sizes(value: ir.Value | None) -> tuple[int, ...]:
    """Return the sizes behind the batch, or nothing where one is free."""
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


def _transposed(node: ir.Node) -> Change:
    weight, order = node.inputs[0].const_value, node.attributes["perm"].as_ints()
    return tuple(int(weight.shape[axis]) for axis in order), lambda: weight.numpy().transpose(order)


def _reshaped(node: ir.Node) -> Change:
    weight = node.inputs[0].const_value
    wanted = [int(size) or int(weight.shape[place]) for place, size in enumerate(_numbers(node.inputs[1]))]
    known = math.prod(size for size in wanted if size != -1)
    shape = tuple(weight.size // known if size == -1 else size for size in wanted)
    return shape, lambda: weight.numpy().reshape(shape)


def _scaled(node: ir.Node) -> Change:
    weight, scale = node.inputs[0].const_value, node.inputs[1].const_value
    shape = np.broadcast_shapes(*(tuple(int(size) for size in one.shape) for one in (weight, scale)))
    return shape, lambda: weight.numpy() * scale.numpy()


_CHANGES: dict[str, Callable[[ir.Node], Change]] = {"Transpose": _transposed, "Reshape": _reshaped, "Mul": _scaled}


def _reordered_rows(graph: ir.Graph, value: ir.Value, turn: ir.Node) -> ir.Value:
    weight, order = value.const_value, turn.attributes["perm"].as_ints()
    sizes = _image_sizes(turn.inputs[0])
    rows, columns = (int(size) for size in weight.shape)
    turned = [sizes[axis - 1] for axis in order[1:]]
    back = [order.index(axis) - 1 for axis in range(1, len(order))]

    def load() -> npt.NDArray[Any]:
        numbers: npt.NDArray[Any] = weight.numpy()
        return numbers.reshape(*turned, columns).transpose(*back, len(turned)).reshape(rows, columns)

    return _weight(graph, f"{value.name}/in_channel_order", (rows, columns), load)


def _weight(graph: ir.Graph, name: str, shape: tuple[int, ...], load: Callable[[], npt.NDArray[Any]]) -> ir.Value:
    return _registered(graph, LazyWeight(name, shape, load))


def _constant(graph: ir.Graph, name: str, numbers: npt.NDArray[Any]) -> ir.Value:
    return _registered(graph, ir.tensor(numbers, name=name))


def _registered(graph: ir.Graph, tensor: Any) -> ir.Value:
    name, count = tensor.name, 1
    while name in graph.initializers:
        count += 1
        name = f"{tensor.name}_{count}"
    tensor.name = name
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _is_float_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.dtype is ir.DataType.FLOAT


def _numbers(value: ir.Value | None) -> npt.NDArray[Any]:
    if value is None or value.const_value is None:
        raise AssertionError("not a constant")
    return np.asarray(value.const_value.numpy())


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)
