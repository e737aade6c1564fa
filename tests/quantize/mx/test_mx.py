"""MXINT8 blocks: the laws of the specification for all finite numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from quantize.mx.encoding import BLOCK, LARGEST, LOWEST_EXPONENT, Blocks, decode, encode

Float32 = npt.NDArray[np.float32]

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Float32, int]:
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=3, max_side=40))
    numbers: Float32 = draw(arrays.arrays(np.float32, shape, elements=NUMBERS))
    return numbers, draw(st.integers(0, len(shape) - 1))


def counts(blocks: Blocks) -> npt.NDArray[np.float64]:
    """Return the unit of each element's block, in the shape of the elements."""
    spread = np.repeat(blocks.exponents.astype(np.float64), BLOCK, axis=blocks.axis)
    worth: npt.NDArray[np.float64] = np.exp2(spread.take(range(blocks.elements.shape[blocks.axis]), axis=blocks.axis))
    return worth


@given(tensors())
def test_the_error_is_at_most_half_a_unit_or_one_unit_with_saturation(given_tensor: tuple[Float32, int]) -> None:
    numbers, axis = given_tensor
    blocks = encode(numbers, axis)
    saturated = np.abs(numbers.astype(np.float64)) > LARGEST * counts(blocks)
    error = np.abs(decode(blocks).astype(np.float64) - numbers)
    assert (error <= np.where(saturated, 1.0, 0.5) * counts(blocks)).all()
    assert (np.abs(blocks.elements[saturated]) == LARGEST).all()


@given(tensors())
def test_encoding_decoded_blocks_again_is_lossless(given_tensor: tuple[Float32, int]) -> None:
    numbers, axis = given_tensor
    once = decode(encode(numbers, axis))
    np.testing.assert_array_equal(decode(encode(once, axis)), once)


@given(tensors())
def test_a_block_is_scaled_by_the_largest_power_of_two_below_its_largest_number(given_tensor: tuple[Float32, int]) -> None:
    numbers, axis = given_tensor
    blocks = encode(numbers, axis)
    scale = 64 * counts(blocks)
    largest = np.abs(decode(blocks)).astype(np.float64)
    assert (largest < 2 * scale).all()
    assert (np.abs(numbers) < 2 * scale).all()
    padded = np.moveaxis(np.abs(numbers), axis, -1)
    for start in range(0, padded.shape[-1], BLOCK):
        block, worth = padded[..., start : start + BLOCK].max(axis=-1), np.moveaxis(scale, axis, -1)[..., start]
        assert ((block >= worth) | (block == 0) | (worth == 64 * 2.0**LOWEST_EXPONENT)).all()


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=200), st.sampled_from([-1.0, 1.0]))
def test_the_largest_power_of_two_of_a_block_is_exact(powers: list[int], sign: float) -> None:
    numbers = np.zeros((len(powers), BLOCK), np.float32)
    numbers[:, 5] = sign * np.exp2(np.array(powers))
    np.testing.assert_array_equal(decode(encode(numbers, 1)), numbers)


@pytest.mark.parametrize(
    ("numbers", "elements", "exponent"),
    [
        pytest.param([1.0, 0.5, -1.0], [64, 32, -64], -6, id="a scale of one"),
        pytest.param([2.0**-3, 2.0**-4], [64, 32], -9, id="a scale of an eighth"),
        pytest.param([1.999, -1.999], [127, -127], -6, id="saturated, and -128 unused"),
        pytest.param([1.0, 0.5 / 64, 1.5 / 64, -2.5 / 64], [64, 0, 2, -2], -6, id="halves to even"),
        pytest.param([3.0e38], [113], 121, id="the largest scale"),
        pytest.param([2.0**-126, 0.0], [1, 0], -126, id="the smallest scale"),
    ],
)
def test_blocks_equal_those_of_the_specification(numbers: list[float], elements: list[int], exponent: int) -> None:
    blocks = encode(np.array([numbers], np.float32), 1)
    assert blocks.elements.tolist() == [elements]
    assert blocks.exponents.tolist() == [[exponent]]


@given(tensors())
def test_decoding_equals_blocked_dequantization_in_onnx(given_tensor: tuple[Float32, int]) -> None:
    numbers, axis = given_tensor
    blocks = encode(numbers, axis)
    node = helper.make_node("DequantizeLinear", ["elements", "scales"], ["numbers"], axis=axis, block_size=BLOCK)
    ends = [
        helper.make_tensor_value_info("elements", TensorProto.INT8, blocks.elements.shape),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, blocks.exponents.shape),
    ]
    graph = helper.make_graph([node], "g", ends, [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, numbers.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    scales = np.exp2(blocks.exponents.astype(np.float32))
    (found,) = ReferenceEvaluator(model).run(None, {"elements": blocks.elements, "scales": scales})
    np.testing.assert_array_equal(found, decode(blocks))
