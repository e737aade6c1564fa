"""Choose how an output is compared: its class per sample, position or pixel, its boxes, its values, or exactly.

The conversion records what it knows in the output's `TensorSpec.measure`. Otherwise the shape and the source's values decide.
The actual values never do, because those of a broken variant may have any form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors
from edgewright.contracts.stored_arrays import pieces
from edgewright.contracts.variant import Measure, TensorSpec

_Array = npt.NDArray[Any]

_ROWS = 64
_ELEMENTS = 1 << 21
"""Limits of the samples whose values decide."""
_COMPARABLE = 50.0
"""Scores of classes compete, so their largest values are of one scale; values in different units are not."""
_BOX = 4
_COLOURS = 3
_MANY_POSITIONS = 1000
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Judgement:
    """The measure of one output, and the axis of its classes or channels; None for an output without such an axis."""

    measure: Measure
    axis: int | None = None
    whole: bool = False
    """One different element makes the whole output different: nothing in it was rounded."""

    @property
    def has_classes(self) -> bool:
        """Return True if the output predicts classes."""
        return self.measure in (Measure.CLASSES, Measure.BINARY)

    @property
    def decides(self) -> bool:
        """Return True if an output of this measure has decisions that agree or not."""
        return self.has_classes or self.measure is Measure.EXACT

    def classes(self, shape: Sequence[int]) -> int:
        """Return the number of classes of an output of `shape`."""
        return 2 if self.axis is None else shape[self.axis]


def judgements(expected: Tensors, specs: Sequence[TensorSpec] = ()) -> dict[str, Judgement]:
    """Return the judgement of every output, from the source's values and the recorded measures."""
    recorded: Mapping[str, str] = {spec.name: spec.measure for spec in specs}
    return {name: judge(array, recorded.get(name, "")) for name, array in expected.items()}


def judge(expected: _Array, recorded: str = "") -> Judgement:
    """Return the judgement of one output; `recorded` is the measure in its `TensorSpec`, or empty."""
    if recorded == Measure.COPY:
        return Judgement(Measure.COPY, whole=expected.dtype.kind != "f")
    if recorded == Measure.VALUES and expected.dtype.kind in "iu":
        return Judgement(Measure.VALUES, _channel_axis(expected[: _deciding(expected)].astype(np.float64)))
    if expected.dtype.kind != "f":
        return Judgement(Measure.EXACT, whole=recorded == Measure.EXACT)
    values = np.nan_to_num(np.asarray(expected[: _deciding(expected)], np.float64), posinf=0.0, neginf=0.0)
    axis = _channel_axis(values)
    if recorded == Measure.VALUES:
        return Judgement(Measure.VALUES, axis)
    if axis is None:
        return Judgement(Measure.BINARY if recorded == Measure.CLASSES or _within_one(values) else Measure.VALUES)
    if recorded == Measure.CLASSES or _sums_to_one(values, axis):
        return Judgement(Measure.CLASSES, axis)
    if values.ndim == 3 and values.shape[2] == _BOX and _are_boxes(values):
        return Judgement(Measure.BOXES, axis)
    picture = values.ndim > 3 and values.shape[axis] == _COLOURS
    detections = values.ndim == 3 and axis == 1
    comparable = not picture and not detections and _comparable(values, axis)
    return Judgement(Measure.CLASSES if comparable else Measure.VALUES, axis)


def _deciding(expected: _Array) -> int:
    of_one = expected.size // max(1, len(expected))
    return min(_ROWS, max(1, _ELEMENTS // max(1, of_one)))


def decisions(output: _Array, judgement: Judgement) -> _Array:
    """Return the predicted class per sample, position or pixel; an exact output is its own decision.

    A single score is the probability of class 1; its class is 1 above one half.
    """
    parts = [_decided(piece, judgement) for piece in pieces(output)] if len(output) else []
    return np.concatenate(parts) if parts else _decided(output, judgement)


def labelled(judged: Mapping[str, Judgement]) -> str | None:
    """Return the output that labels belong to: the first with classes, else the first exact one; or None."""
    with_classes = [name for name, judgement in judged.items() if judgement.has_classes]
    exact = [name for name, judgement in judged.items() if judgement.measure is Measure.EXACT]
    return next(iter(with_classes + exact), None)


def _decided(output: _Array, judgement: Judgement) -> _Array:
    if judgement.measure is Measure.EXACT:
        return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output
    if judgement.axis is not None:
        classes: _Array = output.argmax(axis=judgement.axis)
        return classes
    second: _Array = output > 0.5
    return second.reshape(_without_single_channel(output.shape)).astype(np.int64)


def _without_single_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the decisions of an output with one score each: without its axis of size 1."""
    if len(shape) < 2:
        return shape
    single = 1 if shape[1] == 1 else len(shape) - 1
    return tuple(size for axis, size in enumerate(shape) if axis != single or size != 1)


def _channel_axis(values: _Array) -> int | None:
    """Return the axis of classes or channels; None where there is one value per sample, position or pixel."""
    shape = values.shape
    if values.ndim < 2:
        return None
    last = values.ndim - 1
    axis = last
    if values.ndim > 2:
        certain = [place for place in (last, 1) if _sums_to_one(values, place)]
        axis = certain[0] if certain else _likely_channels(shape)
    return None if shape[axis] == 1 else axis


def _likely_channels(shape: tuple[int, ...]) -> int:
    """Return the axis of channels of a sequence [N, positions, C] or a map [N, C, H, W] or [N, H, W, C]."""
    last = len(shape) - 1
    if len(shape) == 3:
        return 1 if shape[1] * 8 < shape[2] and shape[2] >= _MANY_POSITIONS else last
    if shape[2] == shape[last] != shape[1]:
        return 1
    if shape[1] == shape[2] != shape[last]:
        return last
    return 1 if shape[1] <= shape[last] else last


def _within_one(values: _Array) -> bool:
    return values.size > 0 and float(values.min()) >= 0.0 and float(values.max()) <= 1.0


def _sums_to_one(values: _Array, axis: int) -> bool:
    if values.size == 0 or values.shape[axis] < 2 or values.min() < -_SUM_TOLERANCE or values.max() > 1 + _SUM_TOLERANCE:
        return False
    return bool(np.abs(values.sum(axis=axis) - 1.0).max() < _SUM_TOLERANCE)


def _are_boxes(values: _Array) -> bool:
    """Return True for corners (x1, y1, x2, y2) or (y1, x1, y2, x2), of which some have an area."""
    sides = values[..., 2:] - values[..., :2]
    return values.size > 0 and bool((sides >= 0).all() and (sides > 0).any())


def _comparable(values: _Array, axis: int) -> bool:
    """Return True if the channels are of one scale, as scores that compete are."""
    if values.size == 0:
        return False
    largest = np.abs(values).max(axis=tuple(place for place in range(values.ndim) if place != axis))
    typical = float(np.sort(largest)[(len(largest) - 1) // 2])
    return float(largest.max()) <= _COMPARABLE * typical or float(largest.max()) == 0.0
