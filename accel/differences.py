"""Compare one output with the source's, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.measures import Judgement, decisions
from edgewright.contracts.stored_arrays import let_go
from edgewright.contracts.variant import Measure
from edgewright.errors import ParityError

_Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float64]

_PIECE_BYTES = 1 << 20
"""Of an output at a time; in float64 and with the differences it is several times that."""
_FEW_CHANNELS = 16
_SMALLEST_OF_FEW = 1e-5
"""Below this share of the output's largest value, a channel is rounding noise of the others."""
_SMALLEST_OF_MANY = 0.1
"""As a share of the typical channel: among many channels some are nearly always zero, and their noise is that of the others."""
_VARIES = 0.05
"""An output varies if its values for two samples differ by this share of its largest value."""
_INFORMATIVE = 1e-4
_OVERLAP = 0.5
_MANY_BOXES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """The distance of one output."""

    name: str
    measure: Measure
    max_absolute_difference: float
    max_relative_difference: float
    worst_sample: int
    agreement: float | None
    error: float | None
    constant: bool
    """The output is the same for all samples although the source's is not."""


def compare_output(name: str, expected: _Array, actual: _Array, judgement: Judgement) -> OutputComparison:
    """Compare one output of the same shape.

    Raises:
        ParityError: it holds NaN or infinity where the source does not, or the other way round.
    """
    kinds = "iuf" if judgement.measure is Measure.VALUES else "f"
    if expected.dtype.kind not in kinds or actual.dtype.kind not in kinds:
        return _exactly(name, expected, actual, judgement)
    totals = _Totals(_channels(expected, judgement))
    if expected.size == 0:
        return _empty(name, judgement)
    for start, wanted, given in _side_by_side(expected, actual):
        totals.add(start, *_finite(name, wanted, given), judgement.axis)
    scale = _scale(totals.largest, judgement)
    relative = totals.difference / scale
    worst = int(relative.argmax())
    return OutputComparison(
        name=name,
        measure=judgement.measure,
        max_absolute_difference=float(totals.difference.max()),
        max_relative_difference=float(relative[worst]),
        worst_sample=int(totals.worst[worst]),
        agreement=_agreement(expected, actual, judgement),
        error=totals.error() if judgement.measure is Measure.VALUES else None,
        constant=judgement.measure is not Measure.COPY and totals.is_constant(judgement),
    )


def _exactly(name: str, expected: _Array, actual: _Array, judgement: Judgement) -> OutputComparison:
    """Compare integers, booleans or text.

    The relative difference is the share of elements that differ, or 1 for any difference if nothing was rounded.
    """
    different, worst, largest = 0, -1, 0.0
    for start, wanted, given in _side_by_side(expected, actual):
        unequal = (wanted != given).reshape(len(wanted), -1)
        different += int(unequal.sum())
        if worst < 0 and unequal.any():
            worst = start + int(unequal.any(axis=1).argmax())
        if wanted.dtype.kind in "iubf" and given.dtype.kind in "iubf" and unequal.any():
            largest = max(largest, float(np.abs(wanted.astype(np.float64) - given.astype(np.float64)).max()))
    share = different / max(1, expected.size)
    return OutputComparison(
        name=name,
        measure=judgement.measure,
        max_absolute_difference=largest if largest or not different else 1.0,
        max_relative_difference=1.0 if different and judgement.whole else share,
        worst_sample=max(worst, 0),
        agreement=1.0 - share if judgement.decides else None,
        error=None,
        constant=judgement.measure is not Measure.COPY and _rows_equal(actual) and not _rows_equal(expected),
    )


def _empty(name: str, judgement: Judgement) -> OutputComparison:
    return OutputComparison(
        name=name,
        measure=judgement.measure,
        max_absolute_difference=0.0,
        max_relative_difference=0.0,
        worst_sample=0,
        agreement=None,
        error=None,
        constant=False,
    )


def _side_by_side(expected: _Array, actual: _Array) -> Iterator[tuple[int, _Array, _Array]]:
    """Yield the number of the first sample and both pieces, a few megabytes at a time."""
    step = max(1, _PIECE_BYTES // max(1, expected.nbytes // max(1, len(expected))))
    for start in range(0, len(expected), step):
        yield start, np.array(expected[start : start + step]), np.array(actual[start : start + step])
        let_go(expected)
        let_go(actual)


def _finite(name: str, expected: _Array, actual: _Array) -> tuple[_Floats, _Floats]:
    """Return both as float64, with zeros where both hold the same NaN or infinity."""
    wanted, given = expected.astype(np.float64), actual.astype(np.float64)
    odd = ~np.isfinite(wanted)
    if not odd.any() and np.isfinite(given).all():
        return wanted, given
    if (np.isfinite(given) != ~odd).any() or not np.array_equal(wanted[odd], given[odd], equal_nan=True):
        side = f"output {name}" if (~np.isfinite(given) & ~odd).any() else f"the expected output {name}"
        raise ParityError(f"{side} holds NaN or infinity where the other does not")
    wanted[odd] = given[odd] = 0.0
    return wanted, given


def _channels(expected: _Array, judgement: Judgement) -> int:
    return 1 if judgement.axis is None else expected.shape[judgement.axis]


class _Totals:
    """Sums and extremes per channel over all samples."""

    def __init__(self, channels: int) -> None:
        self.largest = np.zeros(channels)
        self.difference = np.zeros(channels)
        self.worst = np.zeros(channels, np.int64)
        self._squares = np.zeros((3, channels))
        """Sums of squared differences, of expected values, and of squared expected values."""
        self._count = 0
        self._low = np.full((2, channels), np.inf)
        self._high = np.full((2, channels), -np.inf)
        self._first: tuple[_Floats, _Floats] | None = None
        self._expected_spread = 0.0
        self._actual_equal = True

    def add(self, start: int, expected: _Floats, actual: _Floats, axis: int | None) -> None:
        """Add some samples, of which the first has the number `start`."""
        wanted, given = (_by_channel(array, axis) for array in (expected, actual))
        if wanted.size == 0:
            return
        apart = np.abs(given - wanted)
        largest = apart.max(axis=1)
        place = largest.argmax(axis=0)
        higher = largest.max(axis=0) > self.difference
        self.worst = np.where(higher, start + place, self.worst)
        self.difference = np.maximum(self.difference, largest.max(axis=0))
        self.largest = np.maximum(self.largest, np.abs(wanted).max(axis=(0, 1)))
        self._squares += np.stack([(apart**2).sum((0, 1)), wanted.sum((0, 1)), (wanted**2).sum((0, 1))])
        self._count += wanted.shape[0] * wanted.shape[1]
        self._low = np.minimum(self._low, np.stack([wanted.min((0, 1)), given.min((0, 1))]))
        self._high = np.maximum(self._high, np.stack([wanted.max((0, 1)), given.max((0, 1))]))
        self._first = self._first or (wanted[:1].copy(), given[:1].copy())
        self._expected_spread = max(self._expected_spread, float(np.abs(wanted - self._first[0]).max()))
        self._actual_equal = self._actual_equal and bool((given == self._first[1]).all())

    def error(self) -> float:
        """Return the root mean square difference over the standard deviation, in the mean of the channels."""
        differences, sums, squares = self._squares
        spread = squares - sums**2 / max(1, self._count)
        spread = np.where(spread > 1e-12 * squares, spread, squares)
        return float(np.sqrt(np.mean(np.divide(differences, np.where(spread > 0, spread, 1.0)))))

    def is_constant(self, judgement: Judgement) -> bool:
        """Return True if the actual values carry no information although the expected ones do."""
        top = float(self.largest.max(initial=0.0))
        if self._actual_equal and self._expected_spread > _VARIES * top > 0:
            return True
        if judgement.measure is not Measure.VALUES or len(self.largest) < 2:
            return False
        varies = (self._high[0] - self._low[0] > _VARIES * self.largest) & (self.largest > _INFORMATIVE * top)
        silent = varies & (self._high[1] == self._low[1])
        return 2 * int(silent.sum()) > int(varies.sum())


def _by_channel(array: _Floats, axis: int | None) -> _Floats:
    """Return [samples, places, channels]."""
    if axis is None:
        return array.reshape(len(array), -1, 1)
    moved: _Floats = np.moveaxis(array, axis, -1)
    return moved.reshape(len(array), -1, array.shape[axis])


def _scale(largest: _Floats, judgement: Judgement) -> _Floats:
    """Return what the differences of each channel are relative to.

    Probabilities of classes share one scale. Any other channel has its own, but no smaller one than its rounding noise.
    """
    top = float(largest.max(initial=0.0))
    if top == 0.0:
        return np.ones_like(largest)
    if judgement.measure is Measure.CLASSES and top <= 1.0:
        return np.full_like(largest, top)
    typical = float(np.sort(largest)[(len(largest) - 1) // 2])
    smallest = _SMALLEST_OF_FEW * top
    if len(largest) > _FEW_CHANNELS:
        smallest = max(_SMALLEST_OF_MANY * typical, smallest)
    return np.where(largest > 0, np.maximum(largest, smallest), top)


def _agreement(expected: _Array, actual: _Array, judgement: Judgement) -> float | None:
    if judgement.measure is Measure.BOXES:
        return _boxes_agreement(expected, actual)
    if not judgement.has_classes:
        return None
    equal = total = 0
    for _, wanted, given in _side_by_side(expected, actual):
        same = decisions(wanted, judgement) == decisions(given, judgement)
        equal, total = equal + int(same.sum()), total + same.size
    return equal / total if total else None


def _boxes_agreement(expected: _Array, actual: _Array) -> float | None:
    """Return the share of boxes that overlap a box of the variant by half or more; of many boxes, the one at the same place."""
    of_samples = [_overlapping(wanted, given) for wanted, given in zip(expected, actual, strict=True)]
    shares = [share for share in of_samples if share is not None]
    return float(np.mean(shares)) if shares else None


def _overlapping(expected: _Array, actual: _Array) -> float | None:
    wanted, given = expected.astype(np.float64), actual.astype(np.float64)
    wanted = wanted[_area(wanted) > 0] if len(wanted) <= _MANY_BOXES else wanted
    if len(wanted) == 0:
        return None
    if len(expected) > _MANY_BOXES:
        return float(np.mean(_iou(wanted, given) >= _OVERLAP))
    return float(np.mean(_iou(wanted[:, None], given[None]).max(axis=1) >= _OVERLAP))


def _area(boxes: _Floats) -> _Floats:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    area: _Floats = sides[..., 0] * sides[..., 1]
    return area


def _iou(first: _Floats, second: _Floats) -> _Floats:
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    common = _area(np.concatenate([low, high], axis=-1))
    union = _area(first) + _area(second) - common
    return np.where(union > 0, common / np.where(union > 0, union, 1.0), 1.0)


def _rows_equal(array: _Array) -> bool:
    return len(array) == 0 or bool((array == array[:1]).all())
