"""Rules of the search: when a size holds, and which size is tried next. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgewright.profiling.load_messages import LoadResult

MAX_FAILED_SHARE = 0.001
"""Share of requests that may fail at a size that holds."""
MEMORY_MARGIN = 1.25
"""Recommended memory over what was measured, because a longer run meets larger requests and fragmentation."""
MEMORY_STEP_BYTES = 100_000_000
_FINE = tuple(tenths / 10 for tenths in range(1, 10))
_CURVE = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The aim of a profile: requests per second within a latency at a percentile."""

    rate: float
    latency_ms: float
    percentile: int = 95

    def latency_of(self, result: LoadResult) -> float | None:
        """Return the latency that counts, in milliseconds; None if too many requests failed."""
        return result.percentiles_ms[str(self.percentile)]

    def is_held(self, result: LoadResult) -> bool:
        """Return True if the latency is held and almost no request failed."""
        latency_ms = self.latency_of(result)
        failed = result.sent - result.answered
        return latency_ms is not None and latency_ms <= self.latency_ms and failed <= MAX_FAILED_SHARE * result.sent


def candidates(processors: int, *, is_fractional: bool) -> tuple[float, ...]:
    """Return the sizes that may be tried, ascending: tenths of a processor up to one, then quarters; or whole processors."""
    if not is_fractional:
        return tuple(float(each) for each in range(1, processors + 1))
    return (*_FINE, *(quarters / 4 for quarters in range(4, 4 * processors + 1)))


def next_size(sizes: Sequence[float], held: Mapping[float, bool]) -> float | None:
    """Return the size to try next by bisection; None when the smallest that holds is known, or that none does.

    More processor time never makes a service slower, so a size below one that fails need not be tried.
    """
    low = max((index for index, size in enumerate(sizes) if held.get(size) is False), default=-1)
    high = min((index for index, size in enumerate(sizes) if held.get(size) and index > low), default=len(sizes))
    return None if high - low <= 1 else sizes[(low + high) // 2]


def smallest_held(sizes: Sequence[float], held: Mapping[float, bool]) -> float | None:
    """Return the smallest size that holds and above which none fails; None without one."""
    low = max((index for index, size in enumerate(sizes) if held.get(size) is False), default=-1)
    return next((size for size in sizes[low + 1 :] if held.get(size)), None)


def memory_to_give(used_bytes: int) -> int:
    """Return the memory to recommend for a service that used `used_bytes`: with a margin, in steps of 0.1 GB."""
    return math.ceil(used_bytes * MEMORY_MARGIN / MEMORY_STEP_BYTES) * MEMORY_STEP_BYTES


def curve_rates(rate: float) -> tuple[float, ...]:
    """Return the rates at which the recommended size is measured for the curve, in requests per second."""
    return tuple(rate * factor for factor in _CURVE)
