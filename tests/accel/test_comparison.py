"""The comparison counts every output and every element, in the measure that fits each output."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accel.comparison import accuracy, compare_outputs
from accel.measures import judge
from edgewright.contracts.variant import Measure, TensorSpec
from edgewright.errors import ParityError, SamplesError

Array = npt.NDArray[Any]
NOISE = np.random.default_rng(3)


def softmax(scores: Array, axis: int) -> Array:
    raised = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


def corners(count: int) -> Array:
    low = NOISE.random((2, count, 2))
    return np.concatenate([low, low + NOISE.random((2, count, 2))], axis=-1)


@pytest.mark.parametrize(
    ("expected", "measure", "axis"),
    [
        pytest.param(NOISE.normal(size=(8, 10)), Measure.CLASSES, 1, id="logits"),
        pytest.param(NOISE.random((8, 1)), Measure.BINARY, None, id="one probability"),
        pytest.param(NOISE.normal(size=(8, 1)), Measure.VALUES, None, id="one value"),
        pytest.param(NOISE.normal(size=(8,)), Measure.VALUES, None, id="a vector of values"),
        pytest.param(NOISE.normal(size=(8, 3)) * [1e6, 1, 1], Measure.VALUES, 1, id="columns of different scale"),
        pytest.param(NOISE.normal(size=(8, 40, 50)), Measure.CLASSES, 2, id="a sequence"),
        pytest.param(softmax(NOISE.normal(size=(8, 50, 40)), 1), Measure.CLASSES, 1, id="a sequence with its classes first"),
        pytest.param(NOISE.normal(size=(4, 84, 2000)), Measure.VALUES, 1, id="a detector with its channels first"),
        pytest.param(np.abs(NOISE.normal(size=(4, 99, 85))) * ([640] * 4 + [1] * 81), Measure.VALUES, 2, id="boxes with scores"),
        pytest.param(corners(20), Measure.BOXES, 2, id="boxes"),
        pytest.param(NOISE.normal(size=(2, 21, 9, 9)), Measure.CLASSES, 1, id="a map, channels first"),
        pytest.param(NOISE.normal(size=(2, 9, 9, 21)), Measure.CLASSES, 3, id="a map, channels last"),
        pytest.param(NOISE.random((2, 1, 9, 9)), Measure.BINARY, None, id="a mask"),
        pytest.param(NOISE.normal(size=(2, 3, 9, 9)), Measure.VALUES, 1, id="a picture"),
        pytest.param(np.arange(8), Measure.EXACT, None, id="integers"),
        pytest.param(np.array(["a", "b"]), Measure.EXACT, None, id="text"),
        pytest.param(np.array([True, False]), Measure.EXACT, None, id="booleans"),
    ],
)
def test_the_measure_follows_from_shape_and_values(expected: Array, measure: Measure, axis: int | None) -> None:
    judgement = judge(expected)
    assert (judgement.measure, judgement.axis) == (measure, axis)


@given(
    array=hnp.arrays(np.int64, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.integers(0, 3)), place=st.data()
)
def test_one_different_integer_anywhere_is_seen(array: Array, place: st.DataObject) -> None:
    changed = array.copy()
    changed.flat[place.draw(st.integers(0, array.size - 1))] += 1
    comparison = compare_outputs({"x": np.zeros(len(array)), "y": array}, {"x": np.zeros(len(array)), "y": changed})
    assert comparison.max_relative_difference == pytest.approx(1 / array.size)
    assert comparison.agreement == pytest.approx(1 - 1 / array.size)


@given(scale=st.floats(-9, 9), column=st.integers(0, 3), sample=st.integers(0, 7))
def test_a_wrong_column_of_any_scale_is_seen(scale: float, column: int, sample: int) -> None:
    expected = np.random.default_rng(5).normal(size=(8, 4)) + 3.0
    expected[:, column] *= 10.0 ** min(scale, 4.0) if scale > 0 else 10.0 ** max(scale, -4.0)
    wrong = expected.copy()
    wrong[sample, column] *= 1.5
    specs = [TensorSpec(name="y", dtype="float32", shape=("N", 4), measure=Measure.VALUES)]
    comparison = compare_outputs({"y": expected}, {"y": wrong}, specs)
    assert comparison.max_relative_difference > 0.01
    assert comparison.outputs[0].worst_sample == sample


@pytest.mark.parametrize("kind", [np.str_, object, np.bool_])
def test_text_and_booleans_are_compared_by_element(kind: type) -> None:
    expected: Array = np.array([["yes", ""], ["", "no"]]).astype(kind)
    other: Array = np.array([["yes", ""], ["", ""]]).astype(kind)
    assert compare_outputs({"y": expected}, {"y": other}).agreement == 0.75


def test_the_worst_output_decides_in_any_order() -> None:
    scores, ids = NOISE.normal(size=(200, 8)), np.arange(200)
    expected, actual = {"ids": ids, "scores": scores}, {"ids": ids, "scores": np.roll(scores, 1, axis=1)}
    backwards = compare_outputs(dict(reversed(expected.items())), dict(reversed(actual.items())))
    assert compare_outputs(expected, actual).agreement == backwards.agreement == 0.0


def test_a_copy_of_an_input_predicts_nothing() -> None:
    specs = [TensorSpec(name="ids", dtype="int64", shape=("N",), measure=Measure.COPY)]
    ids = {"ids": np.arange(4)}
    assert compare_outputs(ids, ids, specs).agreement is None
    with pytest.raises(SamplesError, match="labels need an output that predicts classes, but ids holds a copy of an input"):
        accuracy(ids, ids, np.zeros(4, np.int64), specs)


def test_sequences_agree_by_position_and_maps_by_pixel() -> None:
    sequence = softmax(NOISE.normal(size=(4, 10, 5)), 2)
    changed = sequence.copy()
    changed[2, 3] = np.roll(changed[2, 3], 1)
    assert compare_outputs({"y": sequence}, {"y": changed}).agreement == 1 - 1 / 40
    pixels, wrong = np.moveaxis(sequence, 2, 1)[..., None], np.moveaxis(changed, 2, 1)[..., None]
    assert compare_outputs({"y": pixels}, {"y": wrong}).agreement == 1 - 1 / 40


def test_a_regression_is_compared_by_its_error() -> None:
    values = NOISE.normal(size=(1000, 1)) * 7
    comparison = compare_outputs({"y": values}, {"y": values + 0.7 * np.sign(NOISE.normal(size=(1000, 1)))})
    assert comparison.agreement is None
    assert comparison.error == pytest.approx(0.7 / values.std(), rel=1e-6)


def test_boxes_agree_if_they_overlap_by_half_whatever_their_order() -> None:
    boxes = np.array([[[0, 0, 4, 4], [10, 10, 20, 20], [0, 0, 0, 0]]], np.float32)
    near = np.array([[[10, 10, 20, 18], [30, 30, 34, 34], [0, 0, 0, 0]]], np.float32)
    assert compare_outputs({"boxes": boxes}, {"boxes": boxes[:, [1, 0, 2]]}).agreement == 1.0
    assert compare_outputs({"boxes": boxes}, {"boxes": near}).agreement == 0.5


def test_an_output_that_carries_no_information_is_named() -> None:
    scores = softmax(NOISE.uniform(-1, 1, size=(16, 4)) - [4, 0, 4, 4], 1)
    constant = np.broadcast_to(scores[:1], scores.shape)
    comparison = compare_outputs({"y": scores}, {"y": constant})
    assert comparison.agreement == 1.0
    assert comparison.constant == ("y",)
    assert compare_outputs({"y": scores}, {"y": scores * 0.9}).constant == ()


def test_scores_of_zero_beside_good_boxes_are_named() -> None:
    joined = np.abs(NOISE.normal(size=(4, 99, 24))) * ([640] * 4 + [1] * 20)
    silent = joined * ([1] * 4 + [0] * 20)
    comparison = compare_outputs({"y": joined}, {"y": silent})
    assert comparison.constant == ("y",)
    assert comparison.max_relative_difference == pytest.approx(1.0)


def test_noise_in_one_channel_of_many_is_relative_to_the_typical_channel() -> None:
    features = np.abs(NOISE.normal(size=(8, 512))).astype(np.float32)
    features[:, 7] = 1e-6
    assert compare_outputs({"y": features}, {"y": features + np.float32(1e-6)}).max_relative_difference < 1e-4


def test_the_same_missing_numbers_are_equal_and_others_are_not() -> None:
    holed = np.array([[1.0, np.nan], [np.inf, 2.0]])
    assert compare_outputs({"y": holed}, {"y": holed.copy()}).max_relative_difference == 0.0
    with pytest.raises(ParityError, match="output y holds NaN or infinity where the other does not"):
        compare_outputs({"y": holed}, {"y": np.array([[1.0, np.nan], [np.nan, 2.0]])})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.zeros(4, np.int64), r"labels must have the shape \[4, 10\].*, but they have the shape \[4\]", id="shape"),
        pytest.param(np.full((4, 10), 9), "labels must be class indices from 0 to 4, but they range from 9 to 9", id="range"),
    ],
)
def test_labels_that_do_not_fit_the_output_are_refused(labels: Array, message: str) -> None:
    sequence = {"y": softmax(NOISE.normal(size=(4, 10, 5)), 2)}
    with pytest.raises(SamplesError, match=message):
        accuracy(sequence, sequence, labels)


def test_labels_of_positions_count_by_position() -> None:
    sequence = {"y": softmax(NOISE.normal(size=(4, 10, 5)), 2)}
    labels = sequence["y"].argmax(2)
    labels[0, 0] = (labels[0, 0] + 1) % 5
    assert accuracy(sequence, sequence, labels) == 1 - 1 / 40


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 0, 4)])
def test_an_output_without_elements_has_no_difference(shape: tuple[int, ...]) -> None:
    empty = {"y": np.zeros(shape, np.float32)}
    assert compare_outputs(empty, empty).max_relative_difference == 0.0


LARGE = np.arange(40 * 65536, dtype=np.int64).reshape(40, 65536)


@pytest.mark.parametrize(
    ("recorded", "difference"),
    [
        pytest.param("", 1 / LARGE.size, id="of floats, where classes may be tied"),
        pytest.param(Measure.EXACT.value, 1.0, id="computed without floats"),
        pytest.param(Measure.COPY.value, 1.0, id="copied"),
    ],
)
def test_one_different_integer_makes_an_output_different_that_nothing_rounds(recorded: str, difference: float) -> None:
    actual = LARGE.copy()
    actual[17, 40_000] += 1
    spec = TensorSpec(name="y", dtype="int64", shape=("N", 65536), measure=recorded)
    compared = compare_outputs({"y": LARGE}, {"y": actual}, [spec])
    assert compared.max_relative_difference == difference
    assert compared.outputs[0].worst_sample == 17
    assert compare_outputs({"y": LARGE}, {"y": LARGE}, [spec]).max_relative_difference == 0.0


def test_a_rounding_step_of_a_quantized_output_is_a_measured_difference() -> None:
    codes = NOISE.integers(0, 200, (40, 8)).astype(np.uint8)
    codes[0] = 200
    actual = codes.copy()
    actual[5, 3] += 1
    spec = TensorSpec(name="y", dtype="uint8", shape=("N", 8), measure=Measure.VALUES.value)
    compared = compare_outputs({"y": codes}, {"y": actual}, [spec])
    assert compared.max_relative_difference == 1 / 200
    assert compared.agreement is None
    assert compared.error is not None
    assert 0 < compared.error < 0.01
