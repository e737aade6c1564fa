"""Trees of scikit-learn: missing values take the branch that training chose, and float64 values on a split keep their side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from convert.conversion import ConvertOptions, convert_model
from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import accepts_missing_values, source_outputs
from edgewright.contracts.samples import write_npz
from edgewright.errors import ParityError
from tests.support.convert_networks import run_graph

GENERATOR = np.random.default_rng(7)
WHOLE = GENERATOR.standard_normal((300, 6)).astype(np.float32)
HOLED = np.where(GENERATOR.random(WHOLE.shape) < 0.2, np.float32(np.nan), WHOLE)
CLASSES = (WHOLE[:, 0] + WHOLE[:, 1] > 0.5).astype(int) + (WHOLE[:, 2] > 0.3)
TREE = DecisionTreeClassifier(max_depth=5, random_state=0)


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(TREE, id="tree"),
        pytest.param(DecisionTreeRegressor(max_depth=5, random_state=0), id="regression tree"),
        pytest.param(RandomForestClassifier(5, max_depth=5, random_state=0), id="forest"),
        pytest.param(RandomForestRegressor(5, max_depth=5, random_state=0), id="regression forest"),
        pytest.param(ExtraTreesClassifier(5, max_depth=5, random_state=0), id="extra trees"),
        pytest.param(BaggingClassifier(TREE, 5, random_state=0), id="bagging"),
        pytest.param(BaggingClassifier(TREE, 5, max_features=0.5, random_state=0), id="bagging of some features"),
        pytest.param(make_pipeline(StandardScaler(), TREE), id="pipeline"),
        pytest.param(
            VotingClassifier([("a", TREE), ("b", RandomForestClassifier(3, random_state=0))], voting="soft"), id="voting"
        ),
        pytest.param(CalibratedClassifierCV(TREE, cv=2), id="calibrated"),
    ],
)
@pytest.mark.parametrize("trained_on", [WHOLE, HOLED], ids=["whole rows", "rows with holes"])
def test_missing_values_give_the_outputs_of_the_estimator(estimator: Any, trained_on: Any, tmp_path: Path) -> None:
    joblib.dump(estimator.fit(trained_on, CLASSES), tmp_path / "m.pkl")
    model, _ = read_sklearn(tmp_path / "m.pkl", pickled=True, trust=True)
    loaded = load_estimator(tmp_path / "m.pkl", pickled=True, trust=True)
    np.testing.assert_allclose(run_graph(model, HOLED)[0], source_outputs(loaded, [HOLED])[0], atol=2e-6)
    assert accepts_missing_values(loaded)


def test_float64_values_on_a_split_stay_on_their_side(tmp_path: Path) -> None:
    table = np.random.default_rng(7).random((200, 3))
    model = HistGradientBoostingRegressor(max_iter=9, max_leaf_nodes=None, min_samples_leaf=1, random_state=0)
    joblib.dump(model.fit(table, table[:, 0] * 7 + table[:, 1]), tmp_path / "m.pkl")
    graph, _ = read_sklearn(tmp_path / "m.pkl", pickled=True, trust=True, nearest=True)
    actual = run_graph(graph, table.astype(np.float32))[0][:, 0]
    np.testing.assert_allclose(actual, model.predict(table), rtol=1e-5)
    exact, _ = read_sklearn(tmp_path / "m.pkl", pickled=True, trust=True)
    narrow = table.astype(np.float32)
    np.testing.assert_allclose(run_graph(exact, narrow)[0][:, 0], model.predict(narrow.astype(np.float64)), rtol=1e-5)


def test_a_feature_that_float32_cannot_hold_is_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    seconds = 1.7e9 + generator.integers(0, 7200, 400)
    table = np.stack([generator.random(400), seconds], axis=1)
    model = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1, min_child_samples=1).fit(table, (seconds // 60) % 2)
    joblib.dump(model, tmp_path / "m.pkl")
    write_npz(tmp_path / "x.npz", {"features": table})
    with pytest.raises(ParityError, match=r"float32 cannot hold the values of features, feature 1 \(1700000\d\d\d and 17000"):
        convert_model(tmp_path / "m.pkl", tmp_path / "build", ConvertOptions(trust=True, samples=tmp_path / "x.npz"))
    assert not (tmp_path / "build").exists()
