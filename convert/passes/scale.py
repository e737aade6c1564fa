"""A pass for batch normalizations that were taken apart: what scales or shifts the channels of a convolution goes into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgewright.graphs.lazy_weights import LazyWeight


def fold_scales(model: ir.Model) -> str:
    """Multiply a Mul, and add an Add, of one number per channel into the convolution right before it."""
    folded = 0
    for node in list(model.graph):
        found = _convolution_and_numbers(node) if node.op_type in ("Mul", "Add") else None
        if found is None or node.outputs[0].is_graph_output():
            continue
        _absorb(model.graph, *found, node)
        folded += 1
    return f"folded {folded} scales and shifts of channels into convolutions" if folded else ""


def _convolution_and_numbers(node: ir.Node) -> tuple[ir.Node, ir.TensorProtocol] | None:
    for value, other in (node.inputs, reversed(node.inputs)):
        conv = value.producer() if value is not None else None
        if conv is None or conv.op_type != "Conv" or other is None or other.const_value is None:
            continue
        alone = len(conv.outputs[0].uses()) == 1 and not conv.outputs[0].is_graph_output()
        known = all(one is not None and one.const_value is not None for one in conv.inputs[1:])
        if alone and known and _per_channel(other.const_value, conv.inputs[1].const_value):
            return conv, other.const_value
    return None


def _per_channel(numbers: ir.TensorProtocol, kernel: ir.TensorProtocol) -> bool:
    """Tell whether `numbers` broadcast along the channels of an image and nothing else."""
    rank, channels = len(kernel.shape), int(kernel.shape[0])
    shape = [1] * (rank - len(numbers.shape)) + [int(size) for size in numbers.shape]
    return numbers.dtype is ir.DataType.FLOAT and shape in ([1] * rank, [1, channels] + [1] * (rank - 2))


def _absorb(graph: ir.Graph, conv: ir.Node, numbers: ir.TensorProtocol, node: ir.Node) -> None:
    kernel = conv.inputs[1].const_value
    bias = conv.inputs[2].const_value if len(conv.inputs) > 2 else None
    scales, shape = node.op_type == "Mul", tuple(int(size) for size in kernel.shape)

    def changed_kernel() -> npt.NDArray[Any]:
        return np.asarray(kernel.numpy() * numbers.numpy().reshape(-1, *[1] * (len(shape) - 1)), np.float32)

    def changed_bias() -> npt.NDArray[Any]:
        before = np.zeros(shape[0], np.float32) if bias is None else bias.numpy()
        number = numbers.numpy().reshape(-1)
        return np.asarray(before * number if scales else before + number, np.float32)

    name = node.name or str(node.outputs[0].name)
    inputs = [conv.inputs[0], _weight(graph, LazyWeight(f"{name}/kernel", shape, changed_kernel)) if scales else conv.inputs[1]]
    if bias is not None or not scales:
        inputs.append(_weight(graph, LazyWeight(f"{name}/bias", (shape[0],), changed_bias)))
    made = ir.Node("", "Conv", inputs, tuple(conv.attributes.values()), name=conv.name)
    made.outputs[0].name = f"{name}/folded"
    graph.insert_before(node, made)
    node.outputs[0].replace_all_uses_with(made.outputs[0])
    graph.remove([node, conv], safe=True)


def _weight(graph: ir.Graph, tensor: LazyWeight) -> ir.Value:
    value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
