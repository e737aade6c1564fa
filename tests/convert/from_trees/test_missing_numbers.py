"""Numbers that stand for missing values take the branch that the boosting library gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost

from convert.conversion import ConvertOptions, convert_model
from convert.from_trees.boosting import ensemble_of_estimator, lightgbm_ensemble
from convert.from_trees.ensemble import graph_of
from convert.source.input_uses import input_uses
from tests.support.convert_networks import run_graph

GENERATOR = np.random.default_rng(3)
TABLE = GENERATOR.normal(size=(400, 4)).astype(np.float32)
HOLES = GENERATOR.random(TABLE.shape) < 0.25
CLASSES = (np.where(HOLES, 2, TABLE)[:, 0] + TABLE[:, 1] > 0.5).astype(int)
XGBOOST: dict[str, Any] = {"n_estimators": 8, "n_jobs": 1}
LIGHTGBM: dict[str, Any] = {"n_estimators": 8, "n_jobs": 1, "verbose": -1, "min_child_samples": 5}


def holed(*marks: float) -> Any:
    """Return the table with marks in its holes, in turn."""
    table = TABLE.copy()
    table[HOLES] = np.resize(np.array(marks, np.float32), HOLES.sum())
    return table


EVERY_MARK = holed(np.nan, 0.0, -999.0, -0.0, 1e-36, 1e9)


@pytest.mark.parametrize("trained_on", [(0.0,), (-999.0,), (np.nan,), (0.0, np.nan, -999.0)], ids=str)
@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(xgboost.XGBClassifier(**XGBOOST, missing=-999), id="xgboost -999"),
        pytest.param(xgboost.XGBClassifier(**XGBOOST, missing=0), id="xgboost 0"),
        pytest.param(xgboost.XGBRegressor(**XGBOOST, missing=1e9), id="xgboost 1e9"),
        pytest.param(xgboost.XGBRFClassifier(n_estimators=3, n_jobs=1, missing=0.1), id="xgboost forest 0.1"),
        pytest.param(xgboost.XGBClassifier(**XGBOOST), id="xgboost"),
        pytest.param(lightgbm.LGBMClassifier(**LIGHTGBM, zero_as_missing=True), id="lightgbm zero"),
        pytest.param(lightgbm.LGBMClassifier(**LIGHTGBM, use_missing=False), id="lightgbm without missing values"),
        pytest.param(lightgbm.LGBMRegressor(**LIGHTGBM), id="lightgbm"),
    ],
)
def test_missing_numbers_give_the_outputs_of_the_library(estimator: Any, trained_on: tuple[float, ...], tmp_path: Path) -> None:
    estimator.fit(holed(*trained_on), CLASSES)
    ensemble = ensemble_of_estimator(estimator, tmp_path)
    assert ensemble is not None
    predict = getattr(estimator, "predict_proba", estimator.predict)
    expected = predict(EVERY_MARK).reshape(len(TABLE), -1)
    np.testing.assert_allclose(run_graph(graph_of(ensemble), EVERY_MARK)[0], expected, atol=2e-6)


def test_a_booster_of_lightgbm_keeps_its_features_in_which_zero_is_missing(tmp_path: Path) -> None:
    settings = {"verbose": -1, "num_threads": 1, "zero_as_missing": True, "min_data_in_leaf": 5, "objective": "binary"}
    booster = lightgbm.train(settings, lightgbm.Dataset(holed(0.0), CLASSES, params={"verbose": -1}), num_boost_round=8)
    booster.save_model(tmp_path / "m.txt")
    loaded = lightgbm.Booster(model_file=str(tmp_path / "m.txt"))
    actual = run_graph(graph_of(lightgbm_ensemble(loaded, tmp_path)), EVERY_MARK)[0]
    np.testing.assert_allclose(actual[:, 1], booster.predict(EVERY_MARK), atol=2e-6)


def test_generated_samples_of_a_model_hold_its_missing_number_and_its_splits(tmp_path: Path) -> None:
    joblib.dump(xgboost.XGBClassifier(**XGBOOST, missing=-12345).fit(holed(-12345), CLASSES), tmp_path / "m.pkl")
    build = convert_model(tmp_path / "m.pkl", tmp_path / "build", ConvertOptions(trust=True))
    golden = np.load(build.graph / "golden_inputs.npz")["features"]
    assert (golden == -12345).any()
    assert np.isnan(golden).any()
    ensemble = ensemble_of_estimator(joblib.load(tmp_path / "m.pkl"), tmp_path)
    assert ensemble is not None
    splits = input_uses(graph_of(ensemble).graph)["features"].splits
    assert np.isin(golden[:, 0], splits[0]).any()
