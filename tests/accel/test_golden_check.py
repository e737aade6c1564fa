"""The golden check and the comparison of outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from accel.comparison import Comparison, compare_outputs
from accel.golden import check_golden, violation
from accel.measures import decisions, judge
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import LayerKind, Tolerance, VariantDirectory
from edgewright.errors import ParityError, SamplesError
from tests.support.tiny_variants import expected_scores, make_config, make_variant, tiny_samples, write_golden


@pytest.fixture
def variant(tmp_path: Path) -> VariantDirectory:
    return make_variant(tmp_path / "fp32")


def test_a_correct_variant_passes(variant: VariantDirectory, tmp_path: Path) -> None:
    x = tiny_samples(40)
    golden = write_golden(tmp_path / "golden", x, expected_scores(x).astype(np.float32))
    result = check_golden(OnnxRuntime().load(variant, threads=1), variant, golden)
    assert (result.sample_count, result.agreement, result.failure) == (40, 1.0, None)
    assert result.max_relative_difference is not None
    assert result.max_relative_difference < 1e-6


def test_one_wrong_answer_among_forty_fails(variant: VariantDirectory, tmp_path: Path) -> None:
    x = tiny_samples(40)
    wrong = expected_scores(x).astype(np.float32)
    wrong[39] = np.roll(wrong[39], 1)
    result = check_golden(OnnxRuntime().load(variant, threads=1), variant, write_golden(tmp_path / "golden", x, wrong))
    assert result.failure is not None
    assert result.agreement == 39 / 40


def test_a_difference_within_the_variants_own_tolerance_passes(variant: VariantDirectory, tmp_path: Path) -> None:
    x = tiny_samples(8)
    golden = write_golden(tmp_path / "golden", x, (expected_scores(x) + 0.01).astype(np.float32))
    session = OnnxRuntime().load(variant, threads=1)
    tolerant = make_config(tolerance=Tolerance(max_relative_difference=0.05, min_agreement=1.0))
    assert check_golden(session, variant, golden).failure is not None
    assert check_golden(session, VariantDirectory(variant.path, tolerant), golden).failure is None


def test_outputs_with_nan_fail(variant: VariantDirectory, tmp_path: Path) -> None:
    x = tiny_samples(2)
    scores = expected_scores(x).astype(np.float32)
    variant.file(LayerKind.HEAD_WEIGHTS).write_bytes(np.full((5, 3), np.nan, np.float32).tobytes())
    result = check_golden(OnnxRuntime().load(variant, threads=1), variant, write_golden(tmp_path / "golden", x, scores))
    assert result.failure == "output scores holds NaN or infinity where the other does not"
    assert result.max_relative_difference is None


def test_golden_samples_of_another_model_are_refused(variant: VariantDirectory, tmp_path: Path) -> None:
    golden = write_golden(tmp_path / "golden", np.zeros((2, 9), np.float32), np.zeros((2, 3), np.float32))
    with pytest.raises(SamplesError, match=r"input x must have shape \[N, 6\]"):
        check_golden(OnnxRuntime().load(variant, threads=1), variant, golden)


def test_missing_golden_samples_are_an_error(variant: VariantDirectory, tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"golden_inputs\.npz: no such file"):
        check_golden(OnnxRuntime().load(variant, threads=1), variant, tmp_path)


def test_the_difference_is_relative_to_the_largest_expected_value_of_each_channel() -> None:
    expected = {"a": np.array([[10.0, -20.0]]), "b": np.array([[2.0, 0.5]])}
    found = {"a": np.array([[10.0, -19.0]]), "b": np.array([[2.0, 0.6]])}
    assert compare_outputs(expected, found).max_relative_difference == pytest.approx(0.2)


def test_the_order_of_the_expected_outputs_does_not_matter() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]])
    expected = {"features": np.array([[9.0, 1.0], [9.0, 1.0]]), "scores": scores}
    found = {"scores": scores[:, ::-1], "features": expected["features"]}
    assert compare_outputs(expected, found).agreement == 0.0


def test_an_output_of_class_labels_is_compared_exactly() -> None:
    comparison = compare_outputs({"label": np.array([3, 4, 5, 6])}, {"label": np.array([3, 4, 5, 9])})
    assert (comparison.max_relative_difference, comparison.agreement) == (0.25, 0.75)


def test_an_output_of_zeros_is_compared_by_absolute_difference() -> None:
    assert compare_outputs({"y": np.zeros((1, 2))}, {"y": np.array([[0.0, 0.25]])}).max_relative_difference == 0.25


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        pytest.param(
            {"y": np.zeros((2, 2))}, {"y": np.zeros((2, 3))}, r"must have shape \[2, 2\], but it has \[2, 3\]", id="shape"
        ),
        pytest.param(
            {"y": np.zeros((1, 1)), "z": np.zeros((1, 1))}, {"y": np.zeros((1, 1))}, "output z is missing", id="missing"
        ),
        pytest.param({}, {"y": np.zeros((1, 1))}, "output y is not among the expected", id="unexpected"),
        pytest.param({"y": np.full((1, 1), np.inf)}, {"y": np.ones((1, 1))}, "the expected output y holds NaN", id="infinite"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(expected: Tensors, found: Tensors, message: str) -> None:
    with pytest.raises(ParityError, match=message):
        compare_outputs(expected, found)


@pytest.mark.parametrize(
    ("difference", "agreement", "message"),
    [
        pytest.param(0.1, 0.9, None, id="both at the edge"),
        pytest.param(0.11, 1.0, "outputs differ by 0.11 of their largest value; at most 0.1 is allowed", id="too far"),
        pytest.param(0.0, 0.89, "89.0% of the predicted labels are as expected; at least 90.0% must be", id="other labels"),
    ],
)
def test_a_tolerance_is_inclusive(difference: float, agreement: float, message: str | None) -> None:
    tolerance = Tolerance(max_relative_difference=0.1, min_agreement=0.9)
    assert violation(Comparison(max_relative_difference=difference, agreement=agreement), tolerance) == message


def test_the_label_of_a_single_column_is_one_above_one_half() -> None:
    scores = np.array([[0.2], [0.9], [0.5]], np.float32)
    np.testing.assert_array_equal(decisions(scores, judge(scores)), [0, 1, 0])


def test_the_label_of_several_columns_is_the_highest_and_that_of_integers_their_value() -> None:
    scores, labels = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32), np.array([7, 3])
    np.testing.assert_array_equal(decisions(scores, judge(scores)), [1, 0])
    np.testing.assert_array_equal(decisions(labels, judge(labels)), [7, 3])
