"""The front of variants by accuracy, size and latency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.auto.automatic import judge
from quantize.auto.pareto import Point, beaten_by


def point(variant: str, quality: float, size: int, latency_ms: float) -> Point:
    return Point(variant=variant, quality=quality, size_bytes=size, latency_ms=latency_ms)


FLOAT = point("fp32", 1.0, 40_000, 10.0)

measured = st.builds(point, st.just(""), st.floats(0, 1), st.integers(1, 10**9), st.floats(1e-3, 1e4))


def named(points: list[Point]) -> list[Point]:
    return [point(f"v{place}", one.quality, one.size_bytes, one.latency_ms) for place, one in enumerate(points)]


def is_no_worse(one: Point, other: Point) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one.rounded(), other.rounded(), strict=True))


@given(st.lists(measured, min_size=1, max_size=7))
def test_law_a_beaten_variant_loses_to_one_that_stays_and_those_that_stay_do_not_beat_each_other(points: list[Point]) -> None:
    by_name = {one.variant: one for one in named(points)}
    beaten = beaten_by(list(by_name.values()))
    front = set(by_name) - set(beaten)
    assert front
    assert set(beaten.values()) <= front
    assert all(is_no_worse(by_name[winner], by_name[name]) for name, winner in beaten.items())
    assert not any(is_no_worse(by_name[one], by_name[other]) for one in front for other in front - {one})


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        pytest.param(point("x", 1.0, 20_000, 10.1), (True, "smallest"), id="smaller, within the noise of a measurement"),
        pytest.param(point("x", 1.0, 39_999, 10.1), (False, "fp32 is as accurate, as small, as fast"), id="equal"),
        pytest.param(point("x", 0.9, 20_000, 4.0), (True, "smallest, fastest"), id="less accurate"),
        pytest.param(point("x", 0.9, 60_000, 12.0), (False, "fp32 is more accurate, smaller, faster"), id="worse in all"),
    ],
)
def test_a_verdict_has_a_reason(other: Point, verdict: tuple[bool, str]) -> None:
    assert judge([FLOAT, other])["x"] == verdict


def test_the_float_variant_stays_even_if_it_is_beaten() -> None:
    assert judge([FLOAT, point("x", 1.0, 10_000, 5.0)])["fp32"] == (True, "the source of the others")
