"""Passes that fold the neighbours of a convolution or matrix product into it: padding, batch normalization, scales and shifts.

New weights are lazy: they are computed when they are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.passes.values import add_initializer, constant_of, input_of, is_constant, rename_as_output
from edgewright.graphs.lazy_weights import LazyWeight


def fold_padding(model: ir.Model) -> str:
    """Replace a zero Pad directly before a convolution by the convolution's own padding."""
    folded = 0
    for node in list(model.graph):
        before = input_of(node, 0).producer() if node.op_type == "Conv" else None
        if before is None or before.op_type != "Pad" or not _is_spatial_zero_pad(before):
            continue
        if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET":
            continue
        rank = len(constant_of(before.inputs[1])) // 2
        pads = constant_of(before.inputs[1]).tolist()
        added = pads[2:rank] + pads[rank + 2 :]
        own = node.attributes["pads"].as_ints() if "pads" in node.attributes else [0] * len(added)
        node.attributes["pads"] = ir.AttrInt64s("pads", [sum(pair) for pair in zip(own, added, strict=True)])
        node.replace_input_with(0, before.inputs[0])
        folded += 1
    return f"folded {folded} Pad nodes into convolutions" if folded else ""


def fold_batch_norm(model: ir.Model) -> str:
    """Fold a batch normalization into the weights of the convolution or matrix product directly before it."""
    folded = 0
    for node in list(model.graph):
        before = input_of(node, 0).producer() if node.op_type == "BatchNormalization" else None
        if before is None or not _accepts_scale(before) or len(before.outputs[0].uses()) != 1:
            continue
        if before.outputs[0].is_graph_output() or not all(is_constant(value) for value in node.inputs[1:]):
            continue
        _fold_norm(model.graph, before, node)
        folded += 1
    return f"folded {folded} batch normalizations" if folded else ""


def fold_scales(model: ir.Model) -> str:
    """Fold a Mul or Add with one number per channel into the convolution directly before it."""
    folded = 0
    for node in list(model.graph):
        match = _convolution_and_operand(node) if node.op_type in ("Mul", "Add") else None
        if match is None or node.outputs[0].is_graph_output():
            continue
        _fold_scale(model.graph, *match, node)
        folded += 1
    return f"folded {folded} channel scales and shifts into convolutions" if folded else ""


def _is_spatial_zero_pad(node: ir.Node) -> bool:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    if mode != "constant" or len(node.inputs) > 3 or node.inputs[1] is None or node.inputs[1].const_value is None:
        return False
    if len(node.inputs) == 3 and node.inputs[2] is not None:
        value = node.inputs[2].const_value
        if value is None or np.any(value.numpy()):
            return False
    pads = constant_of(node.inputs[1])
    rank = len(pads) // 2
    return bool((pads >= 0).all() and not pads[:2].any() and not pads[rank : rank + 2].any())


def _accepts_scale(node: ir.Node) -> bool:
    if len(node.inputs) < 2 or not all(is_constant(value) for value in node.inputs[1:]):
        return False
    if node.op_type == "Gemm":
        factors = ("alpha", "beta")
        return all(node.attributes[name].as_float() == 1 for name in factors if name in node.attributes) and not (
            "transA" in node.attributes and node.attributes["transA"].as_int()
        )
    return str(node.op_type) == "Conv"


def _fold_norm(graph: ir.Graph, node: ir.Node, norm: ir.Node) -> None:
    """Replace `node` by one whose weights include the batch normalization `norm`."""
    kernel, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    gamma, beta, mean, variance = norm.inputs[1:5]
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    columns = node.op_type == "Gemm" and not ("transB" in node.attributes and node.attributes["transB"].as_int())
    shape = kernel.const_value.shape.numpy()

    def factor() -> npt.NDArray[np.float64]:
        return constant_of(gamma) / np.sqrt(constant_of(variance).astype(np.float64) + epsilon)

    def scaled_kernel() -> npt.NDArray[np.float32]:
        along = (1, -1) if columns else (-1,) + (1,) * (len(shape) - 1)
        return np.asarray(constant_of(kernel) * factor().reshape(along).astype(np.float32), np.float32)

    def shifted_bias() -> npt.NDArray[np.float32]:
        before = 0.0 if bias is None else constant_of(bias).astype(np.float64)
        return np.asarray(constant_of(beta) + (before - constant_of(mean)) * factor(), np.float32)

    size = shape[1] if columns else shape[0]
    weights = (LazyWeight(f"{node.name}/kernel", shape, scaled_kernel), LazyWeight(f"{node.name}/bias", (size,), shifted_bias))
    values = [add_initializer(graph, weight) for weight in weights]
    folded = ir.Node("", node.op_type, [node.inputs[0], *values], tuple(node.attributes.values()), name=node.name)
    graph.insert_before(node, folded)
    folded.outputs[0].name = f"{node.name}/normalized"
    output = norm.outputs[0]
    if output.is_graph_output():
        rename_as_output(graph, output, folded.outputs[0])
    output.replace_all_uses_with(folded.outputs[0])
    graph.remove([norm, node], safe=True)


def _convolution_and_operand(node: ir.Node) -> tuple[ir.Node, ir.TensorProtocol] | None:
    for value, other in (node.inputs, reversed(node.inputs)):
        conv = value.producer() if value is not None else None
        if conv is None or conv.op_type != "Conv" or other is None or other.const_value is None:
            continue
        if len(conv.outputs[0].uses()) != 1 or conv.outputs[0].is_graph_output():
            continue
        if all(map(is_constant, conv.inputs[1:])) and _is_per_channel(other.const_value, conv.inputs[1].const_value):
            return conv, other.const_value
    return None


def _is_per_channel(operand: ir.TensorProtocol, kernel: ir.TensorProtocol) -> bool:
    """Return whether `operand` has one number per channel of an image, or one in all."""
    rank, channels = len(kernel.shape), int(kernel.shape[0])
    shape = [1] * (rank - len(operand.shape)) + [int(size) for size in operand.shape]
    return operand.dtype is ir.DataType.FLOAT and shape in ([1] * rank, [1, channels] + [1] * (rank - 2))


def _fold_scale(graph: ir.Graph, conv: ir.Node, operand: ir.TensorProtocol, node: ir.Node) -> None:
    """Replace `conv` and the Mul or Add `node` after it by one convolution."""
    kernel = conv.inputs[1].const_value
    bias = conv.inputs[2].const_value if len(conv.inputs) > 2 else None
    scales, shape = node.op_type == "Mul", tuple(int(size) for size in kernel.shape)

    def scaled_kernel() -> npt.NDArray[Any]:
        return np.asarray(kernel.numpy() * operand.numpy().reshape(-1, *[1] * (len(shape) - 1)), np.float32)

    def new_bias() -> npt.NDArray[Any]:
        before = np.zeros(shape[0], np.float32) if bias is None else bias.numpy()
        per_channel = operand.numpy().reshape(-1)
        return np.asarray(before * per_channel if scales else before + per_channel, np.float32)

    name = node.name or str(node.outputs[0].name)
    weight = add_initializer(graph, LazyWeight(f"{name}/kernel", shape, scaled_kernel)) if scales else conv.inputs[1]
    inputs = [conv.inputs[0], weight]
    if bias is not None or not scales:
        inputs.append(add_initializer(graph, LazyWeight(f"{name}/bias", (shape[0],), new_bias)))
    folded = ir.Node("", "Conv", inputs, tuple(conv.attributes.values()), name=conv.name)
    folded.outputs[0].name = f"{name}/folded"
    graph.insert_before(node, folded)
    node.outputs[0].replace_all_uses_with(folded.outputs[0])
    graph.remove([node, conv], safe=True)
