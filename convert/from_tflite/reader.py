"""Read a TensorFlow Lite file operator by operator.

    parse        the file as dataclasses
    ends         inputs and outputs: what is quantized in the file is float32 in the graph
    walk         the rule of each operator extends the graph

A file whose operators compute with integers becomes a graph with QuantizeLinear and DequantizeLinear after each of them, so it
rounds where the file rounds. A file that stores only its weights as integers or float16 becomes a graph with float32 weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from convert.from_tflite import arithmetic, convolutions, images, matrices, shapes, slices
from convert.from_tflite.call import Call, Rule
from convert.from_tflite.file import Operator, TfliteFile, parse
from convert.from_tflite.network import Network, Order, short
from convert.graph.emit import BATCH_AXIS, Emitter

RULES: dict[str, Rule] = {
    **arithmetic.RULES,
    **convolutions.RULES,
    **images.RULES,
    **matrices.RULES,
    **shapes.RULES,
    **slices.RULES,
}

FLOAT_TOLERANCE = 1e-4
HYBRID_TOLERANCE = 0.1
"""The interpreter rounds the inputs of layers with integer weights to 8 bits; the graph does not."""
QUANTIZED_TOLERANCE = 0.15
"""Kernels round in different ways, and later layers add such steps up: the interpreter's own ones (XNNPACK, built-in, reference)
differ from each other by up to 0.22 on ResNet-8 of MLPerf Tiny, and the graph from the interpreter by 0.05."""


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """The graph of a file, and its largest relative difference from the interpreter."""

    model: ir.Model
    tolerance: float
    ranges: dict[str, tuple[float, float]]
    """The numbers that a quantized input can hold, by name."""


def read_tflite(path: Path) -> TfliteModel:
    """Return the graph of the file at `path`.

    Raises:
        ModelError: the file is damaged, or has an operator that cannot be converted.
        BadInputError: TensorFlow is not installed.
    """
    file = parse(path, RULES.keys())
    emit = Emitter()
    network = Network(file, emit)
    names = {index: emit.unique(_end_name(file.names[index])) for index in dict.fromkeys(file.inputs)}
    inputs = [_input(network, index, names[index]) for index in file.inputs]
    for operator in file.operators:
        _convert(network, operator)
    outputs = [_output(network, index, _end_name(file.names[index])) for index in file.outputs]
    ranges = {names[index]: _range(file, index) for index in file.inputs if file.tensors[index].quantization is not None}
    return TfliteModel(emit.model(inputs, outputs), _tolerance(file), ranges)


def _convert(network: Network, operator: Operator) -> None:
    source = network.tensor(operator.inputs[0]) if operator.inputs and operator.inputs[0] >= 0 else None
    if operator.kind == "DEQUANTIZE" and source is not None and source.constant is not None:
        network.make_constant(operator.outputs[0], operator.inputs[0])
        return
    rule = RULES[operator.kind]
    where = short(network.tensor(operator.outputs[0]).name)
    call = Call(network=network, operator=operator, where=where, order=rule.order or _shared_order(network, operator))
    result = rule.function(call)
    results = result if isinstance(result, list) else [result]
    for index, value in zip(operator.outputs, results, strict=True):
        network.put(index, value, call.order)


def _shared_order(network: Network, operator: Operator) -> Order:
    """Return channels-first order if an input is in it already and the others can be brought into it."""
    rank = len(network.tensor(operator.outputs[0]).shape)
    given = [index for index in operator.inputs if index >= 0]
    varying = [index for index in given if network.tensor(index).constant is None]
    fits = rank >= 3 and all(len(network.tensor(index).shape) == rank for index in varying)
    fits = fits and all(np.asarray(network.tensor(index).constant).ndim <= rank for index in given if index not in varying)
    first = any(network.is_in(index, Order.CHANNELS_FIRST) for index in varying)
    return Order.CHANNELS_FIRST if fits and first else Order.NATIVE


def _input(network: Network, index: int, name: str) -> ir.Value:
    """Return the graph input for a tensor of the file, and make it the tensor's value."""
    tensor = network.tensor(index)
    dtype = np.dtype(np.float32) if tensor.quantization is not None else tensor.dtype
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(dtype)), shape=_named(name, tensor.shape))
    network.put(index, value)
    return value


def _output(network: Network, index: int, name: str) -> ir.Value:
    """Return the graph output for a tensor of the file."""
    tensor = network.tensor(index)
    value = network.emit.node("Identity", [network.value(index)], where=name)
    value.name = network.emit.unique(name)
    dtype = np.dtype(np.float32) if tensor.quantization is not None else tensor.dtype
    value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(dtype)), _named(name, tensor.shape)
    return value


def _named(name: str, shape: tuple[int | None, ...]) -> ir.Shape:
    names = [BATCH_AXIS, *(f"{name}_axis{axis}" for axis in range(1, len(shape)))]
    return ir.Shape([free if size is None else size for free, size in zip(names, shape, strict=False)])


def _end_name(name: str) -> str:
    return short(name).removeprefix("serving_default_")


def _range(file: TfliteFile, index: int) -> tuple[float, float]:
    quantization, dtype = file.tensors[index].quantization, np.iinfo(file.tensors[index].dtype)
    if quantization is None:
        raise ValueError(f"{file.tensors[index].name} is not quantized")
    scale, point = float(quantization.scales[0]), int(quantization.zero_points[0])
    return (dtype.min - point) * scale, (dtype.max - point) * scale


def _tolerance(file: TfliteFile) -> float:
    quantized = [tensor for tensor in file.tensors if tensor.quantization is not None]
    if any(tensor.constant is None for tensor in quantized):
        return QUANTIZED_TOLERANCE
    return HYBRID_TOLERANCE if quantized else FLOAT_TOLERANCE
