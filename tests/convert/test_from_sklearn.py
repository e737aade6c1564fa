"""scikit-learn estimators: the first output predicts the label, and nothing untrusted is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.cluster import KMeans
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from convert.from_sklearn import load_estimator, read_sklearn, source_outputs
from edgewright.errors import ModelError
from tests.convert.networks import digits, relative_difference, run_graph

CLASSIFIERS = [
    LogisticRegression(max_iter=50, tol=0.1),
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=50, tol=0.1)),
    DecisionTreeClassifier(max_depth=5, random_state=0),
    RandomForestClassifier(5, random_state=0),
    LinearSVC(tol=0.1, random_state=0),
    make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=200, tol=0.1, random_state=0)),
]


def named(estimator: Any) -> str:
    return "+".join(type(step).__name__ for step in (estimator if hasattr(estimator, "steps") else [estimator]))


def features() -> Any:
    return digits()[0].reshape(-1, 64)[:400]


def saved(estimator: Any, path: Path) -> Path:
    skops.io.dump(estimator, path)
    return path


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=named)
def test_a_classifier_says_the_same_and_its_largest_score_is_its_label(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(features(), digits()[1][:400])
    graph, labels = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    found = run_graph(graph, features())
    assert len(found) == 1
    assert relative_difference(found[0], source_outputs(estimator, features())) < 1e-5
    assert [int(labels[place]) for place in found[0].argmax(axis=1)] == estimator.predict(features()).tolist()


def test_a_binary_decision_value_becomes_one_score_per_class(tmp_path: Path) -> None:
    estimator = LinearSVC(tol=0.1, random_state=0).fit(features(), np.where(digits()[1][:400] > 4, "high", "low"))
    graph, labels = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    found = run_graph(graph, features())[0]
    assert [labels[place] for place in found.argmax(axis=1)] == estimator.predict(features()).tolist()


@pytest.mark.parametrize("estimator", [LinearRegression(), GradientBoostingRegressor(n_estimators=3)], ids=named)
def test_a_regressor_says_the_same(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(features(), digits()[1][:400])
    graph, labels = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    assert labels == ()
    assert relative_difference(run_graph(graph, features())[0], source_outputs(estimator, features())) < 1e-5


def refusal(path: Path, *, pickled: bool = False, trust: bool = False) -> str:
    with pytest.raises(ModelError) as refused:
        read_sklearn(path, pickled=pickled, trust=trust)
    return str(refused.value)


def test_a_pickle_is_not_opened_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    joblib.dump(LinearRegression().fit([[0.0]], [0.0]), path)
    assert refusal(path, pickled=True) == (
        f"{path} is a pickle, which can run any code when it is opened: add --trust if you made it, "
        "or save the model with skops.io.dump instead"
    )
    assert load_estimator(path, pickled=True, trust=True).n_features_in_ == 1


def test_a_skops_file_with_a_foreign_function_is_refused(tmp_path: Path) -> None:
    path = saved(FunctionTransformer(joblib.hash), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must hold types of scikit-learn and NumPy only, but it holds joblib.hashing.hash: "
        "save a model without custom types, or add --trust if you made it"
    )


def test_a_damaged_pickle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04cut")
    assert refusal(path, pickled=True, trust=True).startswith(f"{path}: this pickle cannot be opened: ")


def test_an_estimator_that_was_never_fitted_is_told(tmp_path: Path) -> None:
    path = saved(LinearRegression(), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must hold a fitted scikit-learn estimator, but it holds LinearRegression: fit it, then save it"
    )


def test_what_predicts_nothing_is_told(tmp_path: Path) -> None:
    path = saved(KMeans(2, n_init=1, random_state=0).fit(features()), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must hold a classifier or regressor, but KMeans is neither: save the whole pipeline that ends in one"
    )
