"""The operators that int8 leaves in float32 because their range, in steps of 1/256, has no room for the values that matter.

softmax         from the last layer before a Softmax to its input: a mask of -1e9 or -100 would decide the range of all scores
outliers        operators that read a constant of 1e4 or more, or infinity, and those after them, while the range contains it
normalization   written-out ones: what a value is divided by, its square root, and the mean of squares that it comes from
joined          a Concat of boxes and scores, or other parts of different size, on the way to an output; a constant that
                scales its channels differently, or a last layer whose weights do
tables          a Gather from a table of embeddings, which is stored as int8 with a scale per column (weight_only.py)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from quantize.calibration.histograms import Range

FLOAT_OPERATORS = {
    "Softmax": "a quantized softmax has fixed steps of 1/256, too coarse for probabilities",
    "LogSoftmax": "a quantized softmax has fixed steps of 1/256, too coarse for probabilities",
    "LayerNormalization": "a normalization has no integer kernel",
    "InstanceNormalization": "a normalization has no integer kernel",
    "BatchNormalization": "a normalization has no integer kernel",
}
OUTLIER = 1e4
LARGEST_RATIO = 16.0
"""Parts whose ranges differ by more than this leave fewer than 16 steps to the smaller one."""

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand", "Identity", "Cast"}
_BEFORE_SOFTMAX = _MOVES | {"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip"}
_MASKS = {"Add", "Sub", "Mul", "Where", "Concat", "Pad", "ScatterElements", "ScatterND", "ConstantOfShape", "Trilu"}
_ENDS_OUTLIERS = _LAYERS | {
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "Tanh",
    "Exp",
    "ReduceMax",
    "ArgMax",
    "TopK",
    "Greater",
    "Less",
    "Equal",
}
_SQUARES = {"Pow", "Abs", "Exp", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
_DIVISORS = (
    _BEFORE_SOFTMAX
    | _SQUARES
    | {"Sqrt", "Reciprocal", "Neg", "ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "Sigmoid", "Softplus"}
)
_SCALES_CHANNELS = {"Mul", "Div"}
_BEFORE_SQUARES = {"Sub", "Neg", "ReduceMean", "ReduceMax", "GlobalAveragePool"}


def float_islands(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> dict[str, str]:
    """Return the names of the operators of `model` that must stay float, each with the reason."""
    graph = _Graph(model.graph, ranges)
    reasons = {node.name: FLOAT_OPERATORS[node.op_type] for node in graph.nodes if node.op_type in FLOAT_OPERATORS}
    rules = (
        ("it is between the last layer and a softmax, where a mask may decide the range", graph.before_softmax()),
        ("a constant far outside of the other values decides its range", graph.outliers()),
        ("it computes the divisor of a normalization, whose small values matter", graph.normalizations()),
        ("its table is stored as int8 with a scale per column", graph.tables()),
        (f"it joins or scales values so that their ranges differ by more than {LARGEST_RATIO:.0f} times", graph.joined()),
    )
    for reason, nodes in rules:
        for node in nodes:
            reasons.setdefault(node.name, reason)
    return reasons


class _Graph:
    def __init__(self, proto: onnx.GraphProto, ranges: Mapping[str, Range]) -> None:
        self.nodes = list(proto.node)
        self._ranges = ranges
        self._constants = {tensor.name: tensor for tensor in proto.initializer}
        self._producers = {name: node for node in proto.node for name in node.output}
        self._outputs = {one.name for one in proto.output}

    def before_softmax(self) -> Iterator[onnx.NodeProto]:
        for node in self.nodes:
            if node.op_type in ("Softmax", "LogSoftmax"):
                yield from self._upwards(node.input[0], _BEFORE_SOFTMAX)

    def outliers(self) -> Iterator[onnx.NodeProto]:
        wide: set[str] = set()
        infinite: set[str] = set()
        for node in self.nodes:
            largest = max((self._largest_constant(node), *(np.inf for name in node.input if name in infinite)))
            if (largest >= OUTLIER or wide & set(node.input)) and node.op_type not in _ENDS_OUTLIERS:
                yield node
                if np.isinf(largest):
                    infinite.update(node.output)
                wide.update(name for name in node.output if name in infinite or self._extent(name) >= OUTLIER)

    def normalizations(self) -> Iterator[onnx.NodeProto]:
        inverse: set[str] = set()
        for node in self.nodes:
            divisor = self._divisor(node)
            if divisor is not None:
                yield node
                yield from self._upwards(divisor, _DIVISORS)
            inverts = divisor is not None and node.op_type != "Sqrt" and not self._computed(node, divisor)
            passes_on = inverse & set(node.input) and node.op_type in _BEFORE_SOFTMAX
            if passes_on:
                yield node
            if inverts or (passes_on and not any(self._computed(node, name) for name in inverse & set(node.input))):
                inverse.update(node.output)

    def joined(self) -> Iterator[onnx.NodeProto]:
        to_output = set(self._outputs)
        for node in reversed(self.nodes):
            if node.op_type not in _LAYERS and to_output & set(node.output):
                to_output.update(node.input)
        mixed: set[str] = set()
        for node in self.nodes:
            joins = node.output[0] in to_output and (self._joins(node) or self._has_wide_channels(node))
            if joins or (mixed & set(node.input) and node.op_type not in _LAYERS):
                yield node
                mixed.update(node.output)

    def tables(self) -> Iterator[onnx.NodeProto]:
        for node in self.nodes:
            table = self._constants.get(node.input[0]) if node.op_type == "Gather" else None
            if table is not None and table.data_type == onnx.TensorProto.FLOAT and len(table.dims) == 2:
                yield node

    def _upwards(self, name: str, allowed: set[str]) -> Iterator[onnx.NodeProto]:
        """Yield the producers of a tensor as far as their operators are allowed, fewer of them before a squaring."""
        open_tensors, seen = [(name, allowed)], set[str]()
        while open_tensors:
            name, allowed = open_tensors.pop()
            node = self._producers.get(name)
            if node is None or node.op_type not in allowed or name in seen:
                continue
            seen.add(name)
            yield node
            squares = node.op_type in _SQUARES or (node.op_type == "Mul" and node.input[0] == node.input[1])
            open_tensors.extend((given, allowed & _BEFORE_SQUARES if squares else allowed) for given in node.input)

    def _divisor(self, node: onnx.NodeProto) -> str | None:
        """Return the computed tensor that an operator divides by, or takes the root of."""
        place = {"Sqrt": 0, "Reciprocal": 0, "Log": 0, "Pow": 0, "Div": 1}.get(node.op_type)
        if place is None or node.input[place] in self._constants:
            return None
        if node.op_type == "Pow":
            exponent = self._constants.get(node.input[1])
            whole = exponent is None or all(power >= 1 for power in np.ravel(numpy_helper.to_array(exponent)))
            return None if whole else str(node.input[0])
        return str(node.input[place])

    def _computed(self, node: onnx.NodeProto, apart: str) -> bool:
        """Return True if the node has an input besides `apart` that is not a constant."""
        return any(name and name != apart and name not in self._constants for name in node.input)

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Return True for a Concat of parts of different size, and for a constant that gives its channels different sizes."""
        if node.op_type in _SCALES_CHANNELS:
            sizes = (np.abs(_floats(self._constants[name])) for name in node.input if name in self._constants)
            return any(some.size > 1 and some.max() > LARGEST_RATIO * some[some > 0].min(initial=np.inf) for some in sizes)
        return node.op_type == "Concat" and self._differ(node)

    def _has_wide_channels(self, node: onnx.NodeProto) -> bool:
        """Return True for a layer after others whose weights for one output channel are far smaller than for another."""
        axis = _channel_axis(node)
        if axis is None or node.input[1] not in self._constants or not any(one.op_type in _LAYERS for one in self._before(node)):
            return False
        weight = _floats(self._constants[node.input[1]])
        if weight.ndim < 2:
            return False
        others = tuple(place for place in range(weight.ndim) if place != axis % weight.ndim)
        sizes = np.abs(weight).max(axis=others, initial=0.0)
        return bool(sizes.size and sizes.max() > LARGEST_RATIO * sizes[sizes > 0].min(initial=np.inf))

    def _before(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return self.nodes[: next(place for place, one in enumerate(self.nodes) if one is node)]

    def _differ(self, node: onnx.NodeProto) -> bool:
        extents = [extent for name in node.input if (extent := self._extent(name)) > 0]
        return len(extents) > 1 and max(extents) > LARGEST_RATIO * min(extents)

    def _extent(self, name: str) -> float:
        if name in self._constants:
            return float(np.abs(_floats(self._constants[name])).max(initial=0.0))
        return max(map(abs, self._ranges.get(name, (0.0, 0.0))))

    def _largest_constant(self, node: onnx.NodeProto) -> float:
        if node.op_type not in _MASKS:
            return 0.0
        tensors = [self._constants[name] for name in node.input if name in self._constants]
        tensors += [helper.get_attribute_value(one) for one in node.attribute if one.type == onnx.AttributeProto.TENSOR]
        return max((float(np.abs(_floats(tensor)).max(initial=0.0)) for tensor in tensors), default=0.0)


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """Return the axis of the output channels in the weight of a layer; None for other operators."""
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return {"Conv": 0, "MatMul": -1}.get(node.op_type)


def _floats(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    numbers = numpy_helper.to_array(tensor)
    return numbers if numbers.dtype.kind == "f" else np.zeros(0)
