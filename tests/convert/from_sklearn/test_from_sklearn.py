"""scikit-learn estimators: the output predicts the label, and untrusted files are not opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
import threadpoolctl
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.impute import KNNImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC
from sklearn.tree import DecisionTreeClassifier

from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import source_outputs
from convert.passes.simplify import simplify
from edgewright.errors import ModelError
from tests.support.convert_networks import digits, relative_difference, run_graph

CLASSIFIERS = [
    LogisticRegression(max_iter=50, tol=0.1),
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=50, tol=0.1)),
    DecisionTreeClassifier(max_depth=5, random_state=0),
    RandomForestClassifier(5, random_state=0),
    LinearSVC(tol=0.1, random_state=0),
    HistGradientBoostingClassifier(max_iter=2, max_leaf_nodes=8),
    VotingClassifier([("tree", DecisionTreeClassifier(max_depth=3, random_state=0)), ("bayes", GaussianNB())], voting="soft"),
    make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=200, tol=0.1, random_state=0)),
]


def named(estimator: Any) -> str:
    return "+".join(type(step).__name__ for step in (estimator if hasattr(estimator, "steps") else [estimator]))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one OpenMP thread, which suffices for hundreds of rows and avoids contention on a busy machine."""
    with threadpoolctl.threadpool_limits(1):
        yield


def features() -> Any:
    return digits()[0].reshape(-1, 64)[:400]


def saved(estimator: Any, path: Path) -> Path:
    skops.io.dump(estimator, path)
    return path


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=named)
def test_a_classifier_computes_the_same_and_its_largest_score_is_its_label(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(features(), digits()[1][:400])
    graph, labels = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    found = run_graph(graph, features())
    assert len(found) == 1
    assert relative_difference(found[0], source_outputs(estimator, [features()])[0]) < 1e-5
    assert [int(labels[place]) for place in found[0].argmax(axis=1)] == estimator.predict(features()).tolist()


def voters() -> list[tuple[str, Any]]:
    linear = LogisticRegression(max_iter=50, tol=0.1)
    return [("linear", linear), ("tree", DecisionTreeClassifier(max_depth=3)), ("bayes", GaussianNB())]


SCORERS = {
    "SVC": SVC(),
    "SVC linear": SVC(kernel="linear"),
    "SVC polynomial": SVC(kernel="poly"),
    "SVC one-vs-one": SVC(decision_function_shape="ovo"),
    "NuSVC": NuSVC(nu=0.1),
    "LinearSVC": LinearSVC(tol=0.1, random_state=0),
    "RidgeClassifier": RidgeClassifier(),
    "SGDClassifier": SGDClassifier(random_state=0),
    "Perceptron": Perceptron(random_state=0),
    "SVC after a scaler": make_pipeline(StandardScaler(), SVC()),
    "SVC of a search": GridSearchCV(SVC(), {"C": [1.0]}, cv=2),
    "majority": VotingClassifier(voters()),
    "majority with weights": VotingClassifier(voters(), weights=[1, 3, 2]),
    "majority without a dropped part": VotingClassifier([("none", "drop"), *voters()], weights=[9, 1, 3.5, 2]),
    "majority after a scaler": make_pipeline(StandardScaler(), VotingClassifier(voters(), weights=(0.5, 0.3, 0.4))),
    "mean of probabilities with weights": VotingClassifier(voters(), voting="soft", weights=[1, 3, 2]),
}
CLASSES = {
    "2 numbers": lambda digit: digit % 2,
    "2 texts": lambda digit: np.where(digit > 4, "röt", "grün"),
    "4 numbers": lambda digit: digit % 4 + 7,
    "3 texts": lambda digit: np.array(["röt", "grün", "blau"])[digit % 3],
}


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("estimator", SCORERS.values(), ids=SCORERS)
def test_the_largest_score_is_the_label_that_the_estimator_predicts(estimator: Any, classes: Any, tmp_path: Path) -> None:
    features = digits()[0].reshape(-1, 64)[:200]
    estimator = clone(estimator).fit(features, classes(digits()[1][:200]))
    predicted = estimator.predict(features).astype(str).tolist()
    joblib.dump(estimator, tmp_path / "model.pkl")
    graph, labels = read_sklearn(tmp_path / "model.pkl", pickled=True, trust=True)
    scores = run_graph(graph, features)[0]
    assert [labels[place] for place in scores.argmax(axis=1)] == predicted
    loaded = load_estimator(tmp_path / "model.pkl", pickled=True, trust=True)
    assert relative_difference(scores, source_outputs(loaded, [features])[0]) < 1e-5


def test_a_binary_decision_value_becomes_one_score_per_class(tmp_path: Path) -> None:
    estimator = LinearSVC(tol=0.1, random_state=0).fit(features(), np.where(digits()[1][:400] > 4, "high", "low"))
    graph, labels = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    found = run_graph(graph, features())[0]
    assert [labels[place] for place in found.argmax(axis=1)] == estimator.predict(features()).tolist()


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        GradientBoostingRegressor(n_estimators=3),
        HistGradientBoostingRegressor(max_iter=3),
        HistGradientBoostingRegressor(loss="poisson", max_iter=3),
    ],
    ids=lambda estimator: f"{named(estimator)} {getattr(estimator, 'loss', '')}",
)
def test_a_regressor_computes_the_same(estimator: Any, tmp_path: Path) -> None:
    estimator.fit(features(), digits()[1][:400])
    graph, labels = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    assert labels == ()
    assert relative_difference(run_graph(graph, features())[0], source_outputs(estimator, [features()])[0]) < 1e-5


def refusal(path: Path, *, pickled: bool = False, trust: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        read_sklearn(path, pickled=pickled, trust=trust)
    return str(caught.value)


def test_a_pickle_is_not_opened_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    joblib.dump(LinearRegression().fit([[0.0]], [0.0]), path)
    assert refusal(path, pickled=True) == (
        f"{path} is a pickle, which can run any code when it is opened: add --trust if you made it, "
        "or save the model with skops.io.dump instead"
    )
    assert load_estimator(path, pickled=True, trust=True).n_features_in_ == 1


def test_a_skops_file_with_an_untrusted_function_is_rejected(tmp_path: Path) -> None:
    path = saved(FunctionTransformer(joblib.hash), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must hold types of scikit-learn and NumPy only, but it holds joblib.hashing.hash: "
        "save a model without custom types, or add --trust if you made it"
    )


def test_a_damaged_pickle_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04cut")
    assert refusal(path, pickled=True, trust=True).startswith(f"{path}: this pickle cannot be opened: ")


class OfAnOldVersion:
    """An estimator whose library reports the stack of its native part."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("Invalid serialization file.\nStack trace:\n  [bt] (0) libxgboost.so(+0x11031e) [0x7f5860f1031e]\n")


def test_the_reason_of_a_library_is_one_line_without_its_stack(tmp_path: Path) -> None:
    old = OfAnOldVersion()
    old.__dict__["trees"] = 3
    joblib.dump(old, tmp_path / "model.pkl")
    assert refusal(tmp_path / "model.pkl", pickled=True, trust=True) == (
        f"{tmp_path / 'model.pkl'}: this pickle cannot be opened: ValueError: Invalid serialization file."
    )


def test_an_unfitted_estimator_is_rejected(tmp_path: Path) -> None:
    path = saved(LinearRegression(), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must hold a fitted scikit-learn estimator for tabular data, but it holds LinearRegression: "
        "fit it on an array [samples, features], then save it"
    )


def test_an_estimator_other_than_classifier_or_regressor_is_rejected(tmp_path: Path) -> None:
    path = saved(KMeans(2, n_init=1, random_state=0).fit(features()), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must hold a classifier, a regressor or an outlier detector, but it holds KMeans: "
        "save the whole pipeline that ends in one"
    )


def test_histogram_boosting_sends_missing_values_to_the_trained_branch(tmp_path: Path) -> None:
    table = features().astype(np.float64)
    table[::3, 20:40] = np.nan
    estimator = HistGradientBoostingClassifier(max_iter=5).fit(table, digits()[1][:400] > 4)
    graph, _ = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    found = run_graph(graph, table.astype(np.float32))[0]
    assert relative_difference(found, estimator.predict_proba(table)) < 1e-5


def test_categorical_histogram_boosting_is_rejected(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(0, 3, (60, 2)).astype(np.float64)
    path = saved(HistGradientBoostingClassifier(categorical_features=[0]).fit(table, table[:, 0] > 1), tmp_path / "model.skops")
    assert refusal(path, trust=True) == (
        f"{path} has categorical splits, which cannot be converted: encode categories as numbers before training"
    )


def by_name() -> tuple[Any, Any]:
    """Return a pipeline that was fitted on a data frame and selects its columns by name."""
    chosen = ColumnTransformer([("scale", StandardScaler(), [0, 2]), ("kind", OneHotEncoder(handle_unknown="ignore"), [1])])
    table = np.stack([features()[:, 20], features()[:, 21] // 4, features()[:, 42]], axis=1)
    pipeline = make_pipeline(chosen, LogisticRegression(max_iter=50, tol=0.1)).fit(table, digits()[1][:400] > 4)
    names = np.array(["age", "kind", "income"], object)
    chosen.feature_names_in_ = names
    chosen.transformers_ = [(name, one, names[places].tolist()) for name, one, places in chosen.transformers_]
    chosen.transformers = [(name, one, names[places].tolist()) for name, one, places in chosen.transformers]
    chosen._columns = [places for _, _, places in chosen.transformers]
    return pipeline, table


def test_columns_selected_by_name_are_selected_by_index(tmp_path: Path) -> None:
    pipeline, table = by_name()
    path = saved(pipeline, tmp_path / "model.skops")
    graph, _ = read_sklearn(path, pickled=False, trust=False)
    expected = source_outputs(load_estimator(path, pickled=False, trust=False), [table])[0]
    assert len(np.unique(expected.round(3))) > 20
    assert relative_difference(run_graph(graph, table)[0], expected) < 1e-5


def test_a_transformer_with_a_loop_in_its_graph_computes_the_same(tmp_path: Path) -> None:
    table = features()[:60, 20:36].copy()
    table[::4, 9] = np.nan
    estimator = make_pipeline(KNNImputer(n_neighbors=2), LogisticRegression(max_iter=50, tol=0.1)).fit(
        table, digits()[1][:60] > 4
    )
    graph, _ = read_sklearn(saved(estimator, tmp_path / "model.skops"), pickled=False, trust=False)
    simplify(graph)
    assert relative_difference(run_graph(graph, table)[0], estimator.predict_proba(table)) < 1e-4


def test_a_multioutput_classifier_is_rejected(tmp_path: Path) -> None:
    answers = np.stack([digits()[1][:400] > 4, digits()[1][:400] % 2], axis=1)
    path = saved(DecisionTreeClassifier(max_depth=2).fit(features(), answers), tmp_path / "model.skops")
    assert refusal(path) == (
        f"{path} must predict one label per sample, but DecisionTreeClassifier predicts 2: save one classifier per label"
    )


def test_an_estimator_of_another_version_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "model.pkl"
    with monkeypatch.context() as newer:
        newer.setattr("sklearn.base.__version__", "9.9.9")
        joblib.dump(make_pipeline(StandardScaler(), LinearRegression()).fit([[0.0], [1.0]], [0.0, 1.0]), path)
    load_estimator(path, pickled=True, trust=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"other version file={path} scikit_learn=9.9.9 installed={sklearn.__version__}: its predictions may differ from those "
        "after training; install scikit-learn==9.9.9, or train the model again"
    ]
    assert not recwarn.list
