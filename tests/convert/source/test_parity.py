"""The comparison with the source, its report and its tolerance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.comparison import accuracy, compare_outputs, measure_outputs
from convert.from_keras.keras_file import HALF_TOLERANCES, KerasFile
from convert.run_source import run_source as run_in_its_framework
from convert.source.identify import SourceKind
from convert.source.parity import (
    FLOAT_TOLERANCE,
    check,
    float_tolerance,
    report_on,
    run_source,
)
from convert.source.sample_sets import SampleSet
from convert.source.samples import generated_samples
from edgewright.contracts.variant import Measured, TensorSpec, Tolerance
from edgewright.errors import ModelError, ParityError, SamplesError
from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, saved, shaken

IMAGE = TensorSpec(name="image", dtype="float32", shape=("N", 4, 4, 1))
EXPECTED = {"score": np.array([[0.0, 2.0], [4.0, 1.0], [0.0, 3.0]], np.float32)}


@pytest.mark.parametrize(
    ("generated", "advice"),
    [
        pytest.param(True, "compare on real samples with --samples", id="generated samples"),
        pytest.param(False, "report this model", id="the user's samples"),
    ],
)
def test_the_worst_output_and_sample_are_named(generated: bool, advice: str) -> None:
    actual = {"score": EXPECTED["score"] + np.array([[0, 0], [0, 0], [0, 0.4]], np.float32)}
    report = report_on(compare_outputs(EXPECTED, actual), measure_outputs(EXPECTED, actual, None), generated=generated)
    with pytest.raises(ParityError) as caught:
        check(report, Path("model.keras"))
    assert str(caught.value) == (
        "model.keras: the converted graph must be within 0.0001 of the source, but output score differs by 0.133 at sample 2: "
        f"{advice}, or accept it with --allow-mismatch"
    )


def test_a_small_difference_passes() -> None:
    actual = {"score": EXPECTED["score"] * np.float32(1.00001)}
    report = report_on(compare_outputs(EXPECTED, actual), measure_outputs(EXPECTED, actual, None), generated=True)
    check(report, Path("model.keras"))
    assert report.passed


def test_nan_never_passes() -> None:
    with pytest.raises(ParityError, match="output score holds NaN or infinity"):
        measure_outputs(EXPECTED, {"score": EXPECTED["score"] * np.float32(np.nan)}, None)


def test_an_accepted_mismatch_widens_the_tolerance_of_variants() -> None:
    exact = Measured(sample_count=9, agreement=1.0, max_relative_difference=1e-6)
    apart = Measured(sample_count=9, agreement=0.75, max_relative_difference=0.25)
    assert float_tolerance(exact) == Tolerance(max_relative_difference=1e-4, min_agreement=1.0)
    assert float_tolerance(apart) == Tolerance(max_relative_difference=0.5, min_agreement=0.65)


def test_generated_samples_are_the_same_every_time() -> None:
    first, second = generated_samples([IMAGE]), generated_samples([IMAGE])
    assert first.inputs["image"].shape == (32, 4, 4, 1)
    assert np.array_equal(first.inputs["image"], second.inputs["image"])


def test_an_error_in_the_source_process_is_reported_with_its_message(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"model.pkl is a pickle, which can run any code when it is opened"):
        run_source(SourceKind.PICKLE, path, [SampleSet(generated_samples([IMAGE]), 32)], ["score"])


def test_accuracy_is_the_share_of_true_labels() -> None:
    assert accuracy(EXPECTED, EXPECTED, np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_one_column_is_a_probability() -> None:
    scores = {"score": np.array([[0.2], [0.9]], np.float32)}
    assert accuracy(scores, scores, np.array([0, 1])) == 1.0


def test_a_label_outside_the_classes_is_rejected() -> None:
    with pytest.raises(SamplesError) as caught:
        accuracy(EXPECTED, EXPECTED, np.array([0, 1, 2]))
    assert str(caught.value) == "labels must be class indices from 0 to 1, but they range from 0 to 2"


def test_inputs_and_outputs_in_dicts_keep_their_order(tmp_path: Path) -> None:
    layers = keras().layers
    wide, deep = keras().Input((3,), name="wide"), keras().Input((2,), name="deep")
    outputs = {"second": layers.Dense(2, name="b")(wide), "first": layers.Dense(4, name="a")(deep)}
    model = shaken(keras().Model({"wide": wide, "deep": deep}, outputs))
    graph, given = converted(model), [noise(5, 2), noise(5, 3)]
    expected = run_in_its_framework(SourceKind.KERAS, saved(model, tmp_path / "m.keras"), given)
    actual = run_graph(graph, *given)
    assert [value.name for value in (*graph.graph.inputs, *graph.graph.outputs)] == ["deep", "wide", "a", "b"]
    assert max(relative_difference(*pair) for pair in zip(actual, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_the_tolerance_of_a_half_precision_model_covers_its_rounding(half: str, tmp_path: Path) -> None:
    layers = keras().layers
    given = keras().Input((16,))
    hidden = layers.Dense(8, activation="relu", dtype=f"mixed_{half}")(given)
    model = shaken(keras().Model(given, layers.Dense(3)(hidden)))
    path = saved(model, tmp_path / "m.keras")
    expected = run_in_its_framework(SourceKind.KERAS, path, [noise(20, 16)])[0]
    assert KerasFile.open(path).half_precision == half
    assert FLOAT_TOLERANCE < relative_difference(run_graph(converted(model), noise(20, 16))[0], expected) < HALF_TOLERANCES[half]
