"""Splitting of kernels into pieces that fit the depthwise unit (docs/spec/npu.md, N27, N35)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.npu.depthwise import DepthwiseUnit, depthwise_unit
from accel.npu.profile import find_profile

UNITS = st.sampled_from([DepthwiseUnit(3, 5), DepthwiseUnit(2, 4), DepthwiseUnit(1, 4)])
KERNELS = st.tuples(st.integers(1, 11), st.integers(1, 11))
STEPS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(UNITS, KERNELS, STEPS)
def test_n27_n35_the_pieces_of_a_kernel_hold_every_tap_once_and_fit_the_unit(
    unit: DepthwiseUnit, kernel: tuple[int, int], steps: tuple[int, int]
) -> None:
    pieces = list(unit.pieces(kernel, steps))
    taps = [(row, column) for rows, columns in pieces for row in rows for column in columns]
    assert sorted(taps) == [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]
    assert all(len(rows) <= unit.rows and len(columns) <= unit.columns for rows, columns in pieces)
    assert all(rows.step in (1, steps[0]) and columns.step in (1, steps[1]) for rows, columns in pieces)


@given(UNITS, st.data())
def test_n27_a_weight_is_stored_in_the_row_of_its_tap_and_all_others_are_zero(unit: DepthwiseUnit, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, unit.rows)), data.draw(st.integers(1, unit.columns))
    weights = np.arange(1, 2 * rows * columns + 1, dtype=np.int8).reshape(2, rows, columns)
    arranged = unit.arrange(weights)
    for (channel, row, column), value in np.ndenumerate(weights):
        assert arranged[unit.weight_row(row, column, columns), channel] == value
    assert np.count_nonzero(arranged) == weights.size


@pytest.mark.parametrize(
    ("profile_name", "unit"),
    [("npu-sim-4", DepthwiseUnit(1, 4)), ("npu-sim-8", DepthwiseUnit(2, 4)), ("colorlight-i9", DepthwiseUnit(3, 5))],
)
def test_n27_the_unit_follows_from_the_rows_of_the_array(profile_name: str, unit: DepthwiseUnit) -> None:
    assert depthwise_unit(find_profile(profile_name)) == unit
