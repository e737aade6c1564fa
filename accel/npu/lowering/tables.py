"""Execute a function of one int8 tensor: its table of 256 results as a sum of clamped lines.

The NPU has no lookup memory. The vector unit multiplies, rounds and clamps, and it adds an int8 tensor (docs/spec/npu.md,
N5-N10). A table is divided into *segments* in which one rounded line gives every result. Each segment is one pass over the
tensor: it adds clamp(round(slope x q + intercept)), which is constant outside of its segment, to the sum of the passes before.
So the sum is the table exactly, and RTL and cycle model need nothing new.

    segments    divides a table into the longest possible lines, in the arithmetic of the vector unit
    passes      one depthwise 1 x 1 layer per segment; weights of 127 give the intercept steps of slope / 127
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from accel.npu.arithmetic import Int8, Range, quantize_multiplier, requantize
from accel.npu.lowering.layers import Addend, ConvolutionLayer, OutputStage, QuantizedTensor, Window
from accel.npu.lowering.qdq import node_name

LOWEST, HIGHEST = -128, 127
WEIGHT = 127
"""Magnitude of the weights: the bias is an integer, so the intercept is a multiple of slope / 127."""
STEEPEST = 600.0
"""Largest slope, in steps of the result per step of the input: over twice the range of int8."""
LARGEST_BIAS = 1 << 30
_SEARCH_STEPS = 50
_INPUTS = np.arange(LOWEST, HIGHEST + 1)
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segment:
    """A clamped line: sign x 127 x q plus `bias`, multiplied by `factor`, rounded and clamped to the levels of its ends."""

    sign: int
    bias: int
    factor: float
    first_level: int
    last_level: int
    """The results before and after the segment; the second one is larger if the sign is 1."""

    @property
    def output(self) -> Range:
        """Range of the pass: `zero` stands for the first level, and the whole rise or fall fits int8."""
        rise = self.last_level - self.first_level
        return Range(LOWEST, LOWEST, LOWEST + rise) if rise >= 0 else Range(HIGHEST, HIGHEST + rise, HIGHEST)

    @property
    def first_output(self) -> Range:
        """Range of the pass if it is the first one, whose result starts at the first level."""
        return Range(self.first_level, *sorted((self.first_level, self.last_level)))

    def changes(self) -> npt.NDArray[np.int64]:
        """Return the difference from the first level for each of the 256 inputs, as the vector unit computes it."""
        multiplier, shift = (np.array([number], np.int32) for number in quantize_multiplier(self.factor))
        accumulators = (self.sign * WEIGHT * _INPUTS).astype(np.int32)
        result = requantize(accumulators, np.array([self.bias], np.int32), multiplier, shift, self.output)
        return result.astype(np.int64) - self.output.zero


@functools.lru_cache(maxsize=256)
def segments(table: tuple[int, ...]) -> tuple[Segment, ...]:
    """Return the segments whose sum is `table`, the int8 results of the inputs -128 to 127."""
    levels, found, start = np.array(table, np.int64), list[Segment](), 0
    while start < len(levels) - 1:
        turn = _end_of_run(levels, start)
        if levels[turn] == levels[start]:
            start = turn
            continue
        end, segment = _longest(levels, start, turn)
        found.append(segment)
        start = end
    return tuple(found)


def _end_of_run(levels: npt.NDArray[np.int64], start: int) -> int:
    """Return the last index to which the table only rises, or only falls, from `start`."""
    steps = np.sign(np.diff(levels[start:]))
    direction = steps[steps != 0][:1]
    against = np.flatnonzero(steps == -direction[0]) if direction.size else np.zeros(0, np.int64)
    return start + (int(against[0]) if against.size else len(steps))


def _longest(levels: npt.NDArray[np.int64], start: int, turn: int) -> tuple[int, Segment]:
    """Return the end and the line of the longest segment from `start`; one of two inputs always exists."""
    low, best = start + 1, None
    while levels[low] == levels[start]:
        low += 1
    high = turn
    while low <= high:
        end = (low + high + 1) // 2 if best else low
        segment = _line(levels, start, end)
        if segment is None:
            high = end - 1
        else:
            low, best = end + 1, (end, segment)
    if best is None:
        raise AssertionError("a segment with one change must exist")
    return best


def _line(levels: npt.NDArray[np.int64], start: int, end: int) -> Segment | None:
    """Return the line between two indexes with the largest distance from all roundings, or None if no line fits."""
    changes = levels[start : end + 1] - levels[start]
    sign = 1 if changes[-1] > 0 else -1
    rises, inputs = sign * changes, _INPUTS[start : end + 1].astype(np.float64)
    before_end, after_start = rises < rises[-1], rises > 0

    def room(slope: float) -> tuple[float, float]:
        """Return the lowest and the highest intercept with which a line of this slope rounds to every result."""
        low, high = rises - 0.5 - slope * inputs, rises + 0.5 - slope * inputs
        return float(low[after_start].max()), float(high[before_end].min())

    slope = _widest(room)
    low, high = room(slope)
    if high <= low:
        return None
    bias = round(sign * (low + high) / 2 * WEIGHT / slope)
    if abs(bias) > LARGEST_BIAS:
        return None
    segment = Segment(sign, bias, slope / WEIGHT, int(levels[start]), int(levels[end]))
    exact = np.zeros(len(levels), np.int64)
    exact[start : end + 1], exact[end + 1 :] = changes, changes[-1]
    return segment if np.array_equal(segment.changes(), exact) else None


def _widest(room: Callable[[float], tuple[float, float]]) -> float:
    """Return the slope with the widest room; the width is a concave function of the slope."""
    left, right = 1e-3, STEEPEST
    for _ in range(_SEARCH_STEPS):
        third = (right - left) / 3
        first, second = (high - low for low, high in (room(left + third), room(right - third)))
        left, right = (left + third, right) if first < second else (left, right - third)
    return (left + right) / 2


def passes(node: onnx.NodeProto, source: QuantizedTensor, result: QuantizedTensor, table: Int8) -> list[ConvolutionLayer]:
    """Return the layers that compute `table` of every element of `source`, in order; the last one writes `result`."""
    constant = Segment(1, 0, 1.0, int(table[0]), int(table[0]))
    lines = segments(tuple(int(level) for level in table)) or (constant,)
    ones = np.ones(source.channels)
    slopes = [Line(line.sign * ones, line.factor * ones, line.bias * ones, line.output) for line in lines]
    slopes[0] = replace(slopes[0], output=lines[0].first_output)
    return sum_of_lines(node, source, result, slopes)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One pass: sign, factor and bias of every channel, and the range of the rounded line."""

    signs: Numbers
    factors: Numbers
    biases: Numbers
    output: Range


def sum_of_lines(
    node: onnx.NodeProto,
    source: QuantizedTensor,
    result: QuantizedTensor,
    lines: Sequence[Line],
    output: Range | None = None,
) -> list[ConvolutionLayer]:
    """Return one depthwise layer per line; every layer after the first one adds its line to the result of the one before.

    Args:
        node: the operator.
        source: the tensor that every layer reads.
        result: the tensor that the last layer writes.
        lines: the lines; `output.zero` of a line stands for 0, of the first line for the zero point of the result.
        output: the range of the result; by default all of int8.
    """
    layers, before = list[ConvolutionLayer](), None
    for number, line in enumerate(lines):
        is_last = number == len(lines) - 1
        sums = result if is_last else replace(result, name=f"{result.name}({number})")
        limits = output if is_last and output is not None else Range(result.zero_point)
        addend = before and Addend(
            name=node_name(node),
            tensor=before,
            main_scale=result.scale,
            main_zero=line.output.zero,
            output=limits,
            is_replaced=True,
        )
        layers.append(
            ConvolutionLayer(
                name=node_name(node),
                operator=node.op_type,
                source=source,
                result=sums,
                window=Window(),
                weights=(WEIGHT * line.signs).astype(np.int8).reshape(-1, 1, 1, 1),
                depthwise=True,
                stage=OutputStage(bias=line.biases.astype(np.int64), factors=line.factors, output=line.output, addend=addend),
            )
        )
        before = sums
    return layers
