"""Measure latency: warm up until the times are stable, then time single runs.

The module uses no files or processes, so that `auto`, `bench` and the reports share one method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec

MAX_WARM_UP_RUNS = 50
WARM_UP_WINDOW = 5
STABLE_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of `run_count` timed calls, after `warm_up_count` uncounted ones, in milliseconds."""

    run_count: int
    warm_up_count: int
    stable: bool
    """True if the warm-up ended with stable times, False if it reached its limit."""
    min_ms: float
    mean_ms: float
    median_ms: float
    p95_ms: float
    p99_ms: float


def measure_latency(
    call: Callable[[], object],
    *,
    runs: int,
    time_limit_s: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Warm up `call`, then time it `runs` times, or fewer if `time_limit_s` is over (at least once)."""
    ends_at = clock() + time_limit_s
    warm_up, stable = _warm_up(call, ends_at, clock)
    times_s: list[float] = []
    while len(times_s) < runs and (not times_s or clock() < ends_at):
        times_s.append(_timed(call, clock))
    return summarize(times_s, warm_up_count=warm_up, stable=stable)


def summarize(times_s: Sequence[float], *, warm_up_count: int, stable: bool) -> Latency:
    """Return the percentiles of single times in seconds."""
    times_ms = np.asarray(times_s) * 1000
    median, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return Latency(
        run_count=len(times_ms),
        warm_up_count=warm_up_count,
        stable=stable,
        min_ms=float(times_ms.min()),
        mean_ms=float(times_ms.mean()),
        median_ms=float(median),
        p95_ms=float(p95),
        p99_ms=float(p99),
    )


def synthetic_inputs(inputs: Sequence[TensorSpec], batch: int) -> Tensors:
    """Return deterministic inputs for a graph: floats in [0, 1), integers 0 or 1; dynamic axes except the first have size 1."""
    generator = np.random.default_rng(0)
    return {spec.name: _synthetic(spec, batch, generator) for spec in inputs}


def _warm_up(call: Callable[[], object], ends_at: float, clock: Callable[[], float]) -> tuple[int, bool]:
    """Run until the median of the last window is within a tenth of the previous one; return the count, and True if it is."""
    times: list[float] = []
    while len(times) < MAX_WARM_UP_RUNS and (not times or clock() < ends_at):
        times.append(_timed(call, clock))
        if len(times) >= 2 * WARM_UP_WINDOW:
            before = float(np.median(times[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW]))
            now = float(np.median(times[-WARM_UP_WINDOW:]))
            if abs(now - before) <= STABLE_FRACTION * before:
                return len(times), True
    return len(times), False


def _timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started


def _synthetic(spec: TensorSpec, batch: int, generator: np.random.Generator) -> np.typing.NDArray[Any]:
    shape = [batch, *(size if isinstance(size, int) else 1 for size in spec.shape[1:])]
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    if dtype.kind in "iu":
        return generator.integers(0, 2, shape).astype(dtype)
    return np.full(shape, "", dtype) if dtype.kind == "O" else np.zeros(shape, dtype)
