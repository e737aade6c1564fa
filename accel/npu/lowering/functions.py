"""Lower operators of one tensor, element by element: evaluate them for the 256 inputs, and execute the table (tables.py).

Every operator of the list is a function of one int8 value, and so is an operator of several tensors if all of them are functions
of the same tensor, as x and sigmoid(x) in SiLU: the table then leads from that tensor to the last result. Rounding to int8
between them is part of the table. PRelu with a slope per channel has no common table; it is the sum of two or three lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from accel.npu.arithmetic import Int8, Range
from accel.npu.lowering.layers import QuantizedTensor
from accel.npu.lowering.opset import OPSET
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError, tensors_read
from accel.npu.lowering.tables import HIGHEST, LOWEST, WEIGHT, Line

OF_ONE_TENSOR = (
    *("Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log"),
    *("Mish", "Neg", "PRelu", "Reciprocal", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh"),
    "ThresholdedRelu",
)
OF_SEVERAL_TENSORS = ("Mul", "Div", "Sub", "Pow", "Max", "Min")
"""Operators whose operands are one tensor and numbers, or functions of one tensor."""
MOST_PASSES = 64
"""A table of more lines than this costs more than the transfer to the host."""
Reals = npt.NDArray[np.float32]
INTEGERS = np.arange(LOWEST, HIGHEST + 1)


@dataclass(slots=True)
class Functions:
    """The tensors that were computed by tables: by name, the tensor that the table reads and its 256 results."""

    tables: dict[str, tuple[QuantizedTensor, Int8]] = field(default_factory=dict)

    def origin(self, tensor: QuantizedTensor) -> tuple[QuantizedTensor, Int8]:
        """Return the tensor that `tensor` is a function of, by default itself, and the function."""
        return self.tables.get(tensor.name, (tensor, INTEGERS.astype(np.int8)))

    def common(self, tensors: Mapping[str, QuantizedTensor], operator: str) -> tuple[QuantizedTensor, dict[str, Reals]]:
        """Return the one tensor that all `tensors` are functions of, and their real values for its 256 integers.

        Raises:
            UnsupportedError: there is no such tensor.
        """
        origins = {name: self.origin(tensor) for name, tensor in tensors.items()}
        source = next(iter(origins.values()))[0]
        if any(origin.name != source.name for origin, _ in origins.values()):
            raise UnsupportedError(f"the NPU does not support {operator} of two tensors")
        if len({tensor.flat for tensor in tensors.values()}) > 1:
            raise UnsupportedError(f"the NPU does not support {operator} of tensors of different shapes")
        return source, {name: dequantized(tensors[name], table) for name, (_, table) in origins.items()}


def dequantized(tensor: QuantizedTensor, integers: npt.NDArray[np.integer]) -> Reals:
    """Return the real values of integers of a tensor."""
    reals: Reals = (integers.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
    return reals


def quantized(tensor: QuantizedTensor, reals: Reals, output: Range) -> Int8:
    """Return the integers of real values, as ONNX QuantizeLinear computes them, within the limits of `output`."""
    levels = np.rint(reals / np.float32(tensor.scale)) + np.float32(tensor.zero_point)
    integers: Int8 = np.clip(levels, max(LOWEST, output.low), min(HIGHEST, output.high)).astype(np.int8)
    return integers


def evaluate(graph: QdqGraph, node: onnx.NodeProto, values: Mapping[str, Reals]) -> Reals:
    """Return the results of a node for the values of its operands; the other operands must be single numbers.

    Raises:
        UnsupportedError: another operand is not a single number, or a result is not a number.
    """
    feeds: dict[str, npt.NDArray[np.float32]] = {}
    for name in tensors_read(node):
        number = None if name in values else graph.number(name)
        if name not in values and number is None:
            raise UnsupportedError(f"the NPU supports {node.op_type} of a tensor and a single number only")
        feeds[name] = values[name] if number is None else np.array([number], np.float32)
    with np.errstate(all="ignore"):
        (result,) = ReferenceEvaluator(_alone(node, feeds)).run(None, feeds)
    reals: Reals = np.asarray(result, np.float32)
    if np.isnan(reals).any():
        raise UnsupportedError("it is not defined for all values of its input")
    return reals


def _alone(node: onnx.NodeProto, feeds: Mapping[str, Reals]) -> onnx.ModelProto:
    """Return a graph of one node with the types of its operands, which the functions of operators such as Gelu need."""
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in feeds]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output]
    graph = onnx.helper.make_graph([node], "alone", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])


def slopes_per_channel(graph: QdqGraph, node: onnx.NodeProto, source: QuantizedTensor) -> npt.NDArray[np.float64] | None:
    """Return the slopes of a PRelu that vary along the channels, or None for other operators and a single slope.

    Raises:
        UnsupportedError: the slopes vary along another axis, or are computed.
    """
    slopes = graph.numbers(node.input[1]) if node.op_type == "PRelu" else None
    if node.op_type != "PRelu" or (slopes is not None and slopes.size == 1):
        return None
    rank = 2 if source.flat else 3 if source.line else 4
    shape = () if slopes is None else (1,) * (rank - slopes.ndim) + slopes.shape
    if slopes is None or shape != (1, source.channels, 1, 1)[:rank] or (source.flat and source.height * source.width > 1):
        raise UnsupportedError("the NPU supports PRelu with one constant slope, or with one per channel")
    return slopes.reshape(-1)


def prelu_lines(source: QuantizedTensor, result: QuantizedTensor, slopes: npt.NDArray[np.float64]) -> list[Line]:
    """Return the lines of a PRelu: the falling and the rising slopes of negative inputs, and the positive inputs.

    Each line is 0 where another one is not, so every result is rounded once.
    """
    step, zero = source.scale / result.scale / WEIGHT, source.zero_point
    ones = np.ones(len(slopes))
    rising = Line(ones, step * np.maximum(slopes, 0), -WEIGHT * zero * ones, Range(result.zero_point, LOWEST, result.zero_point))
    falling = Line(-ones, step * np.maximum(-slopes, 0), WEIGHT * zero * ones, Range(LOWEST))
    positive = Line(ones, step * ones, -WEIGHT * zero * ones, Range(LOWEST))
    return [rising, *([falling] if (slopes < 0).any() else []), positive]
