"""Keep sums within the NPU's int32 accumulators: a channel with hardly any weights gets coarser ones.

A bias is counted in products of one step of the input and one of the weights. Where the weights of a channel are next to nothing
(a unit that died in training), so is their step, and the bias becomes more counts than 32 bits hold. With a larger step the
weights lose what nobody could have seen behind such a bias. onnxruntime's quantizer leaves room for the bias alone. Where all
weights of a channel are zero (a filter that was pruned) it takes a step of 1, which may be more than the whole bias: there the
step becomes the smallest that the bias allows.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

LARGEST_BIAS = 1 << 30
"""Counts of a bias; as many again are left for the products."""


def guard_accumulators(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Coarsen the weights of such channels in place, in layers with a float bias, and return the graph."""
    makers = {name: node for node in quantized.graph.node for name in node.output}
    known = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in quantized.graph.node:
        parts = [makers.get(name) for name in node.input[:2]]
        if len(node.input) > 2 and node.input[2] in known and all(part and part.op_type == "DequantizeLinear" for part in parts):
            given, weight = parts
            if given is not None and weight is not None and weight.input[0] in known:
                _coarsen(known, weight, float(numpy_helper.to_array(known[given.input[1]])), known[node.input[2]])
    return quantized


def _coarsen(known: dict[str, onnx.TensorProto], weight: onnx.NodeProto, input_step: float, bias: onnx.TensorProto) -> None:
    levels, steps = (numpy_helper.to_array(known[name]) for name in weight.input[:2])
    needed = np.abs(numpy_helper.to_array(bias)) / (input_step * LARGEST_BIAS)
    if steps.ndim != 1 or needed.shape != steps.shape:
        return
    axis = next((attribute.i for attribute in weight.attribute if attribute.name == "axis"), 1)
    pruned = ~np.moveaxis(levels, axis, 0).reshape(len(steps), -1).any(axis=1) & (needed > 0)
    wider = np.where(pruned, needed, np.maximum(steps, needed)).astype(np.float32)
    if (wider == steps).all():
        return
    shape = [-1 if place == axis else 1 for place in range(levels.ndim)]
    coarse = np.rint(levels * (steps / wider).reshape(shape)).astype(levels.dtype)
    known[weight.input[0]].CopyFrom(numpy_helper.from_array(coarse, weight.input[0]))
    known[weight.input[1]].CopyFrom(numpy_helper.from_array(wider, weight.input[1]))
