"""The roundings of docs/spec/npu.md against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.npu.arithmetic import (
    Range,
    ResidualScale,
    add_residual,
    quantize_multiplier,
    requantize,
    residual_scale,
)

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
INT8 = st.integers(-128, 127)


def one(accumulator: int, *, bias: int = 0, multiplier: int, shift: int, output: Range | None = None) -> int:
    accumulators, biases, multipliers, shifts = np.array([[accumulator], [bias], [multiplier], [shift]], np.int32)
    return int(requantize(accumulators, biases, multipliers, shifts, output or Range())[0])


def wrapped(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


@given(INT32, INT32, st.integers(0, (1 << 31) - 1), st.integers(1, 62), INT8)
def test_n5_to_n8_requantization_wraps_the_bias_rounds_once_half_to_even_then_adds_zero_and_saturates(
    accumulator: int, bias: int, multiplier: int, shift: int, zero: int
) -> None:
    exact = round(Fraction(wrapped(accumulator + bias) * multiplier, 1 << shift))  # Python rounds half to even
    expected = min(max(exact + zero, -128), 127)
    assert one(accumulator, bias=bias, multiplier=multiplier, shift=shift, output=Range(zero)) == expected


@pytest.mark.parametrize(
    ("accumulator", "expected"),
    [(1, 0), (3, 2), (5, 2), (-1, 0), (-3, -2), (-5, -2), (2, 1), (-2, -1)],
)
def test_n7_a_tie_goes_to_the_even_neighbour(accumulator: int, expected: int) -> None:
    assert one(accumulator, multiplier=1 << 30, shift=31) == expected


def test_n8_the_zero_point_comes_before_saturation_and_saturation_before_the_clamp() -> None:
    assert one(1000, multiplier=1 << 30, shift=30, output=Range(-100, -50, 50)) == 50
    assert one(-1000, multiplier=1 << 30, shift=30, output=Range(100, -128, 127)) == -128
    assert one(0, multiplier=1 << 30, shift=30, output=Range(-100, -50, 50)) == -50


@given(INT8, INT8, st.integers(0, 32767), st.integers(0, 32767), st.integers(1, 31), INT8, INT8, INT8)
def test_n10_a_residual_is_added_with_one_rounding(
    main: int, other: int, main_multiplier: int, other_multiplier: int, shift: int, main_zero: int, other_zero: int, zero: int
) -> None:
    scale = ResidualScale(
        main_zero=main_zero,
        other_zero=other_zero,
        main_multiplier=main_multiplier,
        other_multiplier=other_multiplier,
        shift=shift,
        output=Range(zero),
    )
    total = (main - main_zero) * main_multiplier + (other - other_zero) * other_multiplier
    expected = min(max(round(Fraction(total, 1 << shift)) + zero, -128), 127)
    assert int(add_residual(np.array([main], np.int8), np.array([other], np.int8), scale)[0]) == expected


@given(st.floats(1e-12, 2.0**29))
def test_n6_the_multiplier_is_the_nearest_and_uses_its_bits_where_the_shift_allows(factor: float) -> None:
    multiplier, shift = quantize_multiplier(factor)
    assert 0 <= multiplier < 1 << 31
    assert 1 <= shift <= 62
    assert abs(Fraction(factor) * 2**shift - multiplier) <= 1
    assert multiplier >= 1 << 30 or shift == 62


def test_n6_a_factor_too_small_for_any_multiplier_gives_zero_and_one_too_large_is_refused() -> None:
    assert quantize_multiplier(2.0**-90) == (0, 1)
    with pytest.raises(OverflowError, match=r"a rescale of 2147483648.0 exceeds 2\^30"):
        quantize_multiplier(2.0**31)


@given(st.floats(1e-4, 1e3), st.floats(1e-4, 1e3))
def test_n11_residual_multipliers_share_a_shift_and_the_larger_one_uses_its_fifteen_bits(main: float, other: float) -> None:
    scale = residual_scale((main, 3), (other, -5), 1.0, Range())
    larger = max(scale.main_multiplier, scale.other_multiplier)
    assert (1 << 14) - 1 <= larger < 1 << 15
    assert abs(scale.main_multiplier - main * 2.0**scale.shift) <= 1
    assert abs(scale.other_multiplier - other * 2.0**scale.shift) <= 1
