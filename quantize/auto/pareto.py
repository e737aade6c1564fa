"""The Pareto front of variants by accuracy, size and latency: those that no other variant beats.

Values that differ by less than a measurement can show are equal: each is rounded to a step, of the quality or of a share. A
variant is beaten by another one that is at least as good in all three, and better in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

QUALITY_STEP = 0.002
SIZE_SHARE = 0.02
LATENCY_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A variant with its three measurements."""

    variant: str
    quality: float
    """Share of correct or equal predictions, or the precision of values; 1 is the best."""
    size_bytes: int
    latency_ms: float

    def rounded(self) -> tuple[int, int, int]:
        """Return the measurements in steps; less is better in each."""
        return (
            -round(self.quality / QUALITY_STEP),
            round(math.log(self.size_bytes) / math.log1p(SIZE_SHARE)),
            round(math.log(max(self.latency_ms, 1e-6)) / math.log1p(LATENCY_SHARE)),
        )


def beaten_by(points: Sequence[Point]) -> dict[str, str]:
    """Return the variants outside of the front, each with the name of a variant of the front that beats it.

    Of variants with equal measurements the first stays.
    """
    front: list[Point] = []
    beaten: dict[str, str] = {}
    # In this order nothing that comes later beats what comes earlier; the sort keeps the order of equals.
    for point in sorted(points, key=lambda one: one.rounded()):
        winner = next((one for one in front if _at_least_as_good(one, point)), None)
        if winner is None:
            front.append(point)
        else:
            beaten[point.variant] = winner.variant
    return beaten


def advantages(better: Point, other: Point) -> str:
    """Return the reason for preferring `better`, such as `as accurate, smaller, faster`."""
    words = (("as accurate", "more accurate"), ("as small", "smaller"), ("as fast", "faster"))
    pairs = zip(words, better.rounded(), other.rounded(), strict=True)
    return ", ".join(more if mine < theirs else equal for (equal, more), mine, theirs in pairs)


def _at_least_as_good(one: Point, other: Point) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one.rounded(), other.rounded(), strict=True))
