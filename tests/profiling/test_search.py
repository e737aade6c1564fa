"""The rules of the search."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.profiling.load_messages import LoadResult
from edgewright.profiling.search import Objective, candidates, memory_to_give, next_size, smallest_held


@given(st.integers(1, 40), st.integers(0, 41))
def test_bisection_finds_the_smallest_size_that_holds_in_few_tries(count: int, first: int) -> None:
    sizes = [float(each) for each in range(1, count + 1)]
    held: dict[float, bool] = {}
    while (size := next_size(sizes, held)) is not None:
        assert size not in held
        held[size] = size > first
    assert smallest_held(sizes, held) == next((size for size in sizes if size > first), None)
    assert len(held) <= math.ceil(math.log2(count + 1))


def test_a_size_that_holds_below_one_that_fails_does_not_count() -> None:
    assert smallest_held((0.5, 1.0, 2.0), {0.5: True, 1.0: False, 2.0: True}) == 2.0
    assert next_size((0.5, 1.0, 2.0), {0.5: True, 1.0: False}) == 2.0


def test_sizes_are_tenths_then_quarters_or_whole_processors() -> None:
    assert candidates(2, is_fractional=True) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert candidates(3, is_fractional=False) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("p95_ms", "answered", "is_held"),
    [
        pytest.param(50.0, 1000, True, id="at the limit"),
        pytest.param(50.1, 1000, False, id="too slow"),
        pytest.param(10.0, 999, True, id="one of a thousand failed"),
        pytest.param(10.0, 998, False, id="two of a thousand failed"),
        pytest.param(None, 900, False, id="too many failed for the percentile"),
    ],
)
def test_a_size_holds_within_the_latency_and_almost_without_failures(p95_ms: float | None, answered: int, is_held: bool) -> None:
    result = LoadResult(rate=100, sent=1000, answered=answered, percentiles_ms={"50": 1.0, "90": 2.0, "95": p95_ms, "99": None})
    assert Objective(rate=100, latency_ms=50).is_held(result) is is_held


def test_recommended_memory_has_a_margin_of_a_quarter_in_steps_of_a_tenth() -> None:
    assert [memory_to_give(used) for used in (48_000_000, 80_000_000, 81_000_000)] == [100_000_000, 100_000_000, 200_000_000]
