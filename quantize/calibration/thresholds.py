"""Choose the range of values for eight bits from the histogram of a tensor.

minmax      the full range; one outlier makes every step coarse
percentile  all but the rarest hundred-thousandth
entropy     the range whose 256 levels lose the least information (Kullback-Leibler divergence)
mse         the range with the smallest expected squared error, of clipping and of rounding together

The range always includes zero, because padding and ReLU produce it: it must be exact.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quantize.calibration.histograms import Histogram, Range

LEVELS = 256
CANDIDATES = 64
"""Tried positions of each end of the range."""
SMALLEST_SHARE = 0.02
"""No end moves closer to zero than this share of its first position."""
RARE = 1e-5

Cost = Callable[[Histogram, float, float], float]


class Calibration(enum.StrEnum):
    """The methods to choose a range."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


def best_range(histogram: Histogram, method: Calibration) -> Range:
    """Return the range of `method`."""
    whole = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method is Calibration.MINMAX:
        return whole
    if method is Calibration.PERCENTILE:
        return _percentiles(histogram)
    return _search(histogram, whole, _divergence if method is Calibration.ENTROPY else _squared_error)


def _percentiles(histogram: Histogram) -> Range:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    edges = np.linspace(histogram.low, histogram.high, len(share) + 1)
    low = edges[np.searchsorted(share, RARE / 2, side="right")]
    high = edges[np.searchsorted(share, 1 - RARE / 2) + 1]
    return min(float(low), 0.0), max(float(high), 0.0)


def _search(histogram: Histogram, whole: Range, cost: Cost) -> Range:
    """Move each end in turn, twice: four scans instead of all pairs."""
    low, high = whole
    shares = np.linspace(1.0, SMALLEST_SHARE, CANDIDATES)
    for _ in range(2):
        high = min((whole[1] * share for share in shares), key=lambda end: cost(histogram, low, end)) if whole[1] > 0 else 0.0
        low = min((whole[0] * share for share in shares), key=lambda end: cost(histogram, end, high)) if whole[0] < 0 else 0.0
    return float(low), float(high)


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    centers = histogram.centers()
    step = (high - low) / (LEVELS - 1)
    zero = np.rint(-low / step)
    levels = np.clip(np.rint(centers / step) + zero, 0, LEVELS - 1)
    width = (histogram.high - histogram.low) / len(centers)
    inside = (centers >= low) & (centers <= high)
    # Steps finer than a bin round too: their error is a twelfth of the step squared, which the bins cannot show.
    error = np.where(inside & (step < width), step**2 / 12, ((levels - zero) * step - centers) ** 2)
    return float((histogram.counts * error).sum())


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Return KL(P||Q): P is the histogram with its outliers moved to the ends, Q its approximation by 256 levels.

    A bin with values but no share in Q counts with a tiny probability, so clipping always has a cost.
    """
    centers = histogram.centers()
    inside = (centers >= low) & (centers <= high)
    places = np.flatnonzero(inside)
    if not len(places):
        return float("inf")
    kept = _without_zeros(histogram)[places]
    clipped = kept.copy()
    clipped[0] += histogram.counts[: places[0]].sum()  # outliers; zero never is one
    clipped[-1] += histogram.counts[places[-1] + 1 :].sum()
    levels = np.minimum(((centers[places] - low) / (high - low) * LEVELS).astype(np.int64), LEVELS - 1)
    return _kullback_leibler(clipped, _flattened(kept, levels))


def _without_zeros(histogram: Histogram) -> npt.NDArray[np.float64]:
    """Reduce the peak of ReLU at zero to its neighbours: zero is exact in every range, so it must not affect the choice."""
    counts = histogram.counts.astype(np.float64)
    place = int(np.clip(-histogram.low / (histogram.high - histogram.low) * len(counts), 0, len(counts) - 1))
    around = np.delete(counts[max(place - 1, 0) : place + 2], min(place, 1))
    counts[place] = min(counts[place], around.max(initial=0.0))
    return counts


def _flattened(counts: npt.NDArray[np.float64], levels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Distribute the counts of each level evenly over its non-empty bins."""
    filled = counts > 0
    totals = np.bincount(levels, counts, LEVELS)
    bins = np.maximum(np.bincount(levels, filled, LEVELS), 1)
    return np.where(filled, (totals / bins)[levels], 0.0)


def _kullback_leibler(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    smallest = 1e-9
    p, q = p / p.sum(), q / max(q.sum(), smallest)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], smallest))).sum())
