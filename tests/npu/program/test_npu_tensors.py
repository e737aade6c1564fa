"""The layout of tensors in memory, and packing, unpacking and quantization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel.npu.tensors import ColumnFold, TensorPlace, dequantize, pack, quantize, unpack

PLACE = TensorPlace(name="x", channels=5, height=2, width=3, scale=0.5, zero_point=-7, base=0)


def random_values(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    return np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)


def test_n40_n41_blocks_of_channels_follow_one_another_and_the_rest_holds_the_zero_point() -> None:
    values = random_values(2, 5, 2, 3)
    vectors = pack(values, PLACE, 4)
    assert vectors.shape == (2, PLACE.vectors(4), 4) == (2, 12, 4)
    np.testing.assert_array_equal(vectors[1, 4], values[1, :4, 1, 1])
    np.testing.assert_array_equal(vectors[1, 6 + 5], [values[1, 4, 1, 2], -7, -7, -7])


@pytest.mark.parametrize("columns", [4, 8, 16])
def test_unpacking_reverses_packing(columns: int) -> None:
    values = random_values(3, 5, 2, 3)
    np.testing.assert_array_equal(unpack(pack(values, PLACE, columns), PLACE, columns), values)


def test_a_flat_or_channels_last_array_is_the_same_tensor() -> None:
    values = random_values(3, 5, 2, 3)
    expected = pack(values, PLACE, 4)
    flat, last = replace(PLACE, flat=True), replace(PLACE, channels_last=True)
    np.testing.assert_array_equal(pack(values.reshape(3, -1), flat, 4), expected)
    np.testing.assert_array_equal(pack(values.transpose(0, 2, 3, 1), last, 4), expected)
    np.testing.assert_array_equal(unpack(expected, flat, 4), values.reshape(3, -1))


def test_n42_a_folded_input_holds_the_pixels_under_a_kernel_row_side_by_side() -> None:
    fold = ColumnFold(kernel=3, step=2, dilation=1, left=1, width=2)
    values = random_values(1, 5, 2, 3)
    vectors = pack(values, replace(PLACE, fold=fold), 16)
    assert vectors.shape == (1, 4, 16)
    under_first = np.concatenate([np.full(5, -7), values[0, :, 1, 0], values[0, :, 1, 1], [-7]])
    under_second = np.concatenate([values[0, :, 1, 1], values[0, :, 1, 2], np.full(5, -7), [-7]])
    np.testing.assert_array_equal(vectors[0, 2:], [under_first, under_second])


def test_n43_the_host_quantizes_half_to_even_and_saturates() -> None:
    reals = np.array([[0.25, 0.75, -0.25, 1000.0, -1000.0]], np.float32)
    assert quantize(reals, PLACE).tolist() == [[-7, -5, -7, 127, -128]]
    assert dequantize(np.array([-7, -5], np.int8), PLACE).tolist() == [0.0, 1.0]
