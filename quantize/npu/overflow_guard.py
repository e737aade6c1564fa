"""Guard the NPU's int32 accumulators against overflow: a channel with tiny weights gets a coarser step.

The unit of a bias is the product of the input step and the weight step. If the weights of a channel are almost zero (a unit that
died in training), so is their step, and the bias in units exceeds 32 bits. A larger step loses only weights that are negligible
beside such a bias. onnxruntime's quantizer leaves room for the bias alone. For a channel with only zero weights (a pruned filter)
it takes a step of 1, which may exceed the whole bias: that step becomes the smallest one that the bias allows.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

LARGEST_BIAS = 1 << 30
"""Largest bias in units; the same range remains for the products."""


def guard_accumulators(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Coarsen the weights of such channels in place, in layers with a float bias, and return `quantized`."""
    producers = {name: node for node in quantized.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in quantized.graph.node:
        parts = [producers.get(name) for name in node.input[:2]]
        if (
            len(node.input) > 2
            and node.input[2] in constants
            and all(part and part.op_type == "DequantizeLinear" for part in parts)
        ):
            source, weight = parts
            if source is not None and weight is not None and weight.input[0] in constants:
                input_step = float(numpy_helper.to_array(constants[source.input[1]]))
                _coarsen(constants, weight, input_step, constants[node.input[2]])
    return quantized


def _coarsen(constants: dict[str, onnx.TensorProto], weight: onnx.NodeProto, input_step: float, bias: onnx.TensorProto) -> None:
    levels, steps = (numpy_helper.to_array(constants[name]) for name in weight.input[:2])
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
    constants[weight.input[0]].CopyFrom(numpy_helper.from_array(coarse, weight.input[0]))
    constants[weight.input[1]].CopyFrom(numpy_helper.from_array(wider, weight.input[1]))
