"""Samples keep the class values of the source, whatever the classes are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from convert.conversion import ConvertOptions, convert_model
from convert.graph.interface import checked_labels, has_classes
from convert.graph.maps import class_labels
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import FLOAT_VARIANT, TensorSpec
from edgewright.errors import BadInputError, SamplesError

TABLE = np.random.default_rng(7).normal(size=(120, 4)).astype(np.float32)
PLACES = (TABLE[:, 0] > 0).astype(int) + (TABLE[:, 1] > 0.5)


def forest(classes: list[Any]) -> RandomForestClassifier:
    """Return a forest that answers every sample of `TABLE` as in training."""
    return RandomForestClassifier(5, bootstrap=False, random_state=0).fit(TABLE, np.array(classes)[PLACES])


@pytest.mark.parametrize(
    ("classes", "given", "names"),
    [
        pytest.param([3, 7, 9], [3, 7, 9], ("cat", "dog", "cow"), id="numbers"),
        pytest.param([1, 2, 3], ["cat", "dog", "cow"], ("cat", "dog", "cow"), id="names"),
        pytest.param([1, 2, 3], [1, 2, 3], (), id="without names"),
    ],
)
def test_the_accuracy_of_renamed_classes_is_that_of_the_source(
    tmp_path: Path, classes: list[Any], given: list[Any], names: tuple[str, ...]
) -> None:
    joblib.dump(forest(classes), tmp_path / "m.pkl")
    kept = PLACES < 2  # with the third class missing, wrong indices would fit
    write_npz(tmp_path / "x.npz", {"features": TABLE[kept], "labels": np.array(given)[PLACES[kept]]})
    options = ConvertOptions(trust=True, samples=tmp_path / "x.npz", labels=names)
    build = convert_model(tmp_path / "m.pkl", tmp_path / "build", options)
    config = build.variant(FLOAT_VARIANT).config
    assert config.measured is not None
    assert config.measured.accuracy == 1.0
    assert config.labels == (names or tuple(map(str, classes)))
    assert config.class_values == (tuple(map(str, classes)) if names else ())


@pytest.mark.parametrize("zip_map", [True, False])
@pytest.mark.parametrize("classes", [[1, 2, 3], ["a", "b", "c"]])
@pytest.mark.parametrize("estimator", [RandomForestClassifier(2), LogisticRegression()])
def test_an_onnx_classifier_has_the_classes_of_the_estimator(estimator: Any, classes: list[Any], zip_map: bool) -> None:
    estimator.fit(TABLE, np.array(classes)[PLACES])
    proto = to_onnx(estimator, TABLE, options={"zipmap": zip_map})
    assert class_labels(proto.graph) == tuple(map(str, estimator.classes_))


def test_the_labels_of_an_onnx_classifier_are_its_classes(tmp_path: Path) -> None:
    onnx.save(to_onnx(forest([1, 2, 3]), TABLE), tmp_path / "m.onnx")
    kept = PLACES < 2
    write_npz(tmp_path / "x.npz", {"X": TABLE[kept], "labels": PLACES[kept] + 1})
    build = convert_model(tmp_path / "m.onnx", tmp_path / "build", ConvertOptions(samples=tmp_path / "x.npz"))
    config = build.variant(FLOAT_VARIANT).config
    assert config.labels == ("1", "2", "3")
    assert config.measured is not None
    assert config.measured.accuracy == 1.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.eye(3, dtype=np.int64)[PLACES], r"labels must have the shape \[120\]", id="one-hot"),
        pytest.param(np.stack([PLACES, PLACES], axis=1), r"but they have the shape \[120, 2\]", id="two columns"),
        pytest.param(PLACES + 1, "labels must be class indices|labels must be classes of the model", id="from 1"),
        pytest.param(PLACES.astype(np.float32) / 2, "labels must be one integer class index per sample", id="fractions"),
        pytest.param(PLACES[:60], "every array must have the same number of samples", id="too few"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    joblib.dump(forest([0, 1, 2]), tmp_path / "m.pkl")
    write_npz(tmp_path / "x.npz", {"features": TABLE, "labels": labels})
    with pytest.raises(SamplesError, match=message):
        convert_model(tmp_path / "m.pkl", tmp_path / "build", ConvertOptions(trust=True, samples=tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        pytest.param(("N", 3), True, id="scores"),
        pytest.param(("N", 4), False, id="other scores"),
        pytest.param(("N", 3, 16, 16), True, id="maps, channels first"),
        pytest.param(("N", 16, 16, 3), True, id="maps, channels last"),
        pytest.param(("N", 21, "h", "w"), False, id="maps of free size"),
        pytest.param(("N", "classes"), True, id="a free number of classes"),
        pytest.param(("N", 1), False, id="a probability"),
    ],
)
def test_three_names_fit_outputs_of_three_classes(shape: tuple[int | str, ...], fits: bool) -> None:
    assert has_classes(TensorSpec(name="y", dtype="float32", shape=shape), 3) is fits


def test_names_belong_to_the_scores_whatever_the_first_output_is() -> None:
    places = TensorSpec(name="place", dtype="int64", shape=("N", 5))
    scores = TensorSpec(name="scores", dtype="float32", shape=("N", 2))
    assert checked_labels(("cat", "dog"), [places, scores]) == ("cat", "dog")
    with pytest.raises(BadInputError, match="there must be one label per class: output scores has 2, but 5 were given"):
        checked_labels(tuple("abcde"), [places, scores])
