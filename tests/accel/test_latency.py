"""Latency measurement with a fake clock."""

from __future__ import annotations

import numpy as np
import pytest

from accel.latency import MAX_WARM_UP_RUNS, measure_latency, synthetic_inputs
from edgewright.contracts.variant import TensorSpec


class Clock:
    """A clock that only advances with work."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Work:
    """Work with the given durations in order; the last one repeats."""

    def __init__(self, clock: Clock, *took_ms: float) -> None:
        self.clock, self.took_ms, self.calls = clock, list(took_ms), 0

    def __call__(self) -> None:
        self.clock.now_s += self.took_ms[min(self.calls, len(self.took_ms) - 1)] / 1000
        self.calls += 1


def test_slow_first_runs_are_not_counted() -> None:
    clock = Clock()
    found = measure_latency(Work(clock, 900, 500, 50, 20, 10, 5), runs=20, clock=clock)
    assert found.stable
    assert (found.min_ms, found.median_ms, found.p99_ms) == pytest.approx((5, 5, 5))


def test_an_unstable_warm_up_ends_at_its_limit() -> None:
    clock = Clock()
    growing = [1.5**number for number in range(80)]
    found = measure_latency(Work(clock, *growing), runs=1, time_limit_s=1e30, clock=clock)
    assert (found.warm_up_count, found.stable) == (MAX_WARM_UP_RUNS, False)


def test_the_percentiles_are_those_of_single_runs() -> None:
    clock = Clock()
    work = Work(clock, *[1.0] * 10, *[float(number) for number in range(1, 101)])
    found = measure_latency(work, runs=100, clock=clock)
    assert (found.run_count, found.warm_up_count) == (100, 10)
    assert (found.min_ms, found.median_ms, found.mean_ms) == pytest.approx((1, 50.5, 50.5))
    assert (found.p95_ms, found.p99_ms) == pytest.approx((95.05, 99.01))


def test_the_time_limit_ends_the_runs_early_after_at_least_one() -> None:
    clock = Clock()
    found = measure_latency(Work(clock, 1000), runs=100, time_limit_s=12.5, clock=clock)
    assert (found.warm_up_count, found.run_count) == (10, 3)
    late = Clock()
    assert measure_latency(Work(late, 1000), runs=100, time_limit_s=0.5, clock=late).run_count == 1


def test_synthetic_inputs_fit_the_graph_and_are_deterministic() -> None:
    specs = (
        TensorSpec(name="image", dtype="float16", shape=("N", 3, "H")),
        TensorSpec(name="ids", dtype="int64", shape=(1, 4)),
        TensorSpec(name="mask", dtype="bool", shape=("N",)),
        TensorSpec(name="text", dtype="object", shape=("N", 1)),
    )
    found = synthetic_inputs(specs, batch=2)
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "image": ("float16", (2, 3, 1)),
        "ids": ("int64", (2, 4)),
        "mask": ("bool", (2,)),
        "text": ("object", (2, 1)),
    }
    np.testing.assert_array_equal(found["image"], synthetic_inputs(specs, batch=2)["image"])
