"""Insert QuantizeLinear and DequantizeLinear nodes around the operators of a graph, with the ranges of a calibration.

onnxruntime's quantizer has the rules for operators with integer kernels and for shared quantizers; the ranges are ours.
Activations have a zero point, weights are symmetric with a scale per output channel; the types depend on the hardware.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from accel.npu.lowering.opset import lower_opset
from edgewright.errors import OperationError, one_line
from hardware_profiles.hardware_profile import Int8Types
from quantize.calibration.histograms import Range
from quantize.int8.float_islands import FLOAT_OPERATORS, float_islands
from quantize.mx.encoding import Blocks, decode
from quantize.mx.graph import ELEMENTS, EXPONENTS

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators with weights. These are the layers that are counted, corrected or kept in float."""
POOLING = {"MaxPool", "AveragePool", "Relu", "Clip"}
MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QdqFormat:
    """The format of the integers in a graph."""

    types: Int8Types = Int8Types.U8S8
    integer_biases: bool = False
    """Float biases make a smaller graph, because onnxruntime converts them to integers on loading. Mixed precision disables that
    optimizer (`accel.backends.onnxruntime_cpu.load_graph`), so it needs integer ones."""
    more_operators: frozenset[str] = frozenset()
    """Operators that are quantized in addition to those with integer kernels in onnxruntime."""
    from_inputs: bool = False
    """Quantize graph inputs also before a pooling or a Relu; onnxruntime quantizes those only after a quantized operator."""

    float_islands: bool = True
    """Leave operators in float whose range has no room for the values that matter; the NPU has no float."""


def quantized_graph(
    model: onnx.ModelProto, ranges: Mapping[str, Range], kept_float: Collection[str] = (), form: QdqFormat | None = None
) -> onnx.ModelProto:
    """Return `model` (with embedded weights) with quantizers; the nodes called `kept_float` keep float inputs and weights."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    form = form or QdqFormat()
    if any(not node.name for node in model.graph.node):  # an empty name would silently exclude every node without a name
        raise AssertionError("every node must have a name before quantization")
    always = {node.name for node in model.graph.node if node.op_type in FLOAT_OPERATORS}
    excluded = {*kept_float, *always, *(float_islands(model, ranges) if form.float_islands else ())}
    bounds = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    try:
        quantizer = QDQQuantizer(
            save_and_reload_model_with_shape_infer(model),
            per_channel=True,
            reduce_range=form.types is Int8Types.U8S7,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if form.types is Int8Types.S8S8 else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry, *form.more_operators}),
            extra_options={"QuantizeBias": form.integer_biases},
        )
        for name in _inputs_of_poolings(model, excluded) if form.from_inputs else ():
            quantizer.quantize_activation_tensor(name)
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    except (ValueError, RuntimeError, TypeError) as error:
        raise OperationError(f"onnxruntime could not quantize the graph: {one_line(error)}") from error
    quantized: onnx.ModelProto = quantizer.model.model
    lower_opset(quantized)
    return quantized


def _inputs_of_poolings(model: onnx.ModelProto, excluded: set[str]) -> list[str]:
    """Return the graph inputs that reach a pooling or a Relu, directly or through operators that only move elements."""
    reaching: set[str] = set()
    for node in reversed(model.graph.node):
        reads_quantized = node.op_type in POOLING or (node.op_type in MOVING and reaching.intersection(node.output))
        if reads_quantized and node.name not in excluded:
            reaching.add(node.input[0])
    return [value.name for value in model.graph.input if value.name in reaching]


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the operators that have weights, in the order of the graph."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights]


def with_followers(model: onnx.ModelProto, kept_float: Collection[str]) -> set[str]:
    """Return `kept_float` and the operators without weights whose values come only from those layers.

    With every layer in float the result is all operators, including those before the first layer.
    """
    names = {node.name for node in layers(model)}
    if names <= set(kept_float):
        return {node.name for node in model.graph.node}
    sources: dict[str, set[str]] = {}
    kept = set(kept_float)
    for node in model.graph.node:
        origins = {node.name} if node.name in names else set().union(*(sources.get(name, set()) for name in node.input))
        sources.update(dict.fromkeys(node.output, origins))
        if origins and origins <= set(kept_float):
            kept.add(node.name)
    return kept


def weight_of(model: onnx.ModelProto, name: str) -> npt.NDArray[np.float32]:
    """Return the values of an initializer."""
    weight: npt.NDArray[np.float32] = numpy_helper.to_array(_initializer(model, name))
    return weight


def set_weight(model: onnx.ModelProto, name: str, numbers: npt.NDArray[np.float32]) -> None:
    """Replace the values of an initializer."""
    _initializer(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numbers, np.float32), name))


def rounded_weight(quantized: onnx.ModelProto, name: str) -> npt.NDArray[np.float32] | None:
    """Return the dequantized values of the weight `name` in a quantized graph; None if it stayed float.

    A weight in blocks has the shape of its block layout, with the values in the same order.
    """
    initializers = {tensor.name: tensor for tensor in quantized.graph.initializer}
    if ELEMENTS.format(name) in initializers:
        return _from_blocks(quantized, name)
    if f"{name}_quantized" not in initializers:
        return None
    reader = next(node for node in quantized.graph.node if f"{name}_quantized" in node.input)
    axis = next((attribute.i for attribute in reader.attribute if attribute.name == "axis"), 1)
    levels, scale, zero = (numpy_helper.to_array(initializers[part]) for part in reader.input)
    shape = [-1 if place == axis else 1 for place in range(levels.ndim)] if scale.ndim else []
    rounded: npt.NDArray[np.float32] = (levels.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
    return rounded


def _from_blocks(quantized: onnx.ModelProto, name: str) -> npt.NDArray[np.float32]:
    elements, exponents = (numpy_helper.to_array(_initializer(quantized, form.format(name))) for form in (ELEMENTS, EXPONENTS))
    reader = next(node for node in quantized.graph.node if ELEMENTS.format(name) in node.input)
    axis = next(attribute.i for attribute in reader.attribute if attribute.name == "axis")
    return decode(Blocks(elements, exponents, axis))


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    tensor: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return tensor
