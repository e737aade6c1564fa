"""What is compared with the source, and what happens when it differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.identify import SourceKind
from convert.measure import accuracy, measured
from convert.parity import check, float_tolerance, generated_samples, report_on, run_source
from edgewright.contracts.variant import Measured, TensorSpec, Tolerance
from edgewright.errors import ModelError, ParityError, SamplesError

IMAGE = TensorSpec(name="image", dtype="float32", shape=("N", 4, 4, 1))
EXPECTED = {"score": np.array([[0.0, 2.0], [4.0, 1.0], [0.0, 3.0]], np.float32)}


def test_the_worst_output_and_sample_are_named() -> None:
    found = {"score": EXPECTED["score"] + np.array([[0, 0], [0, 0], [0, 0.4]], np.float32)}
    report = report_on(EXPECTED, found, measured(EXPECTED, found, None), generated=True)
    with pytest.raises(ParityError) as told:
        check(report, Path("model.keras"))
    assert str(told.value) == (
        "model.keras: the converted graph must be within 0.0001 of the source, but output score differs by 0.1 at sample 2: "
        "report this model, or accept it with --allow-mismatch"
    )


def test_a_small_difference_passes() -> None:
    found = {"score": EXPECTED["score"] * np.float32(1.00001)}
    report = report_on(EXPECTED, found, measured(EXPECTED, found, None), generated=True)
    check(report, Path("model.keras"))
    assert report.passed


def test_nan_never_passes() -> None:
    with pytest.raises(ParityError, match="output score holds NaN or infinity"):
        measured(EXPECTED, {"score": EXPECTED["score"] * np.float32(np.nan)}, None)


def test_an_accepted_mismatch_widens_what_variants_are_held_to() -> None:
    exact = Measured(sample_count=9, agreement=1.0, max_relative_difference=1e-6)
    apart = Measured(sample_count=9, agreement=0.75, max_relative_difference=0.25)
    assert float_tolerance(exact) == Tolerance(max_relative_difference=1e-4, min_agreement=1.0)
    assert float_tolerance(apart) == Tolerance(max_relative_difference=0.5, min_agreement=0.65)


def test_generated_samples_are_the_same_every_time() -> None:
    first, second = generated_samples([IMAGE]), generated_samples([IMAGE])
    assert first.inputs["image"].shape == (32, 4, 4, 1)
    assert np.array_equal(first.inputs["image"], second.inputs["image"])


def test_the_sources_own_refusal_arrives_as_its_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"model.pkl is a pickle, which can run any code when it is opened"):
        run_source(SourceKind.PICKLE, path, generated_samples([IMAGE]), ["score"])


def test_accuracy_is_the_share_of_true_labels() -> None:
    assert accuracy(EXPECTED["score"], np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_one_column_is_a_probability() -> None:
    assert accuracy(np.array([[0.2], [0.9]], np.float32), np.array([0, 1])) == 1.0


def test_a_label_that_is_no_class_is_told() -> None:
    with pytest.raises(SamplesError) as told:
        accuracy(EXPECTED["score"], np.array([0, 1, 2]))
    assert str(told.value) == "labels must be class indices from 0 to 1, but they go from 0 to 2"
