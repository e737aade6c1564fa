"""Settings of boosting estimators beside their trees: objective, missing value, base score, several targets, alone and nested."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, VotingClassifier

from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import source_outputs
from tests.support.convert_networks import relative_difference, run_graph


@pytest.fixture(autouse=True)
def _boosting(require_package: Any) -> None:
    require_package("lightgbm")
    require_package("xgboost")


GENERATOR = np.random.default_rng(0)
WHOLE = GENERATOR.normal(size=(200, 5)).astype(np.float32)
HOLES = np.where(GENERATOR.random(WHOLE.shape) < 0.15, np.float32(np.nan), WHOLE)
TWO = (WHOLE[:, 0] + WHOLE[:, 1] > 0).astype(int)
THREE = TWO + (WHOLE[:, 2] > 0)
POSITIVE = np.exp(0.4 * WHOLE[:, 0])
SHARE = 1 / (1 + np.exp(-WHOLE[:, 0]))
BOTH = np.stack([POSITIVE, WHOLE[:, 2]], axis=1)
LABELS = np.stack([TWO, WHOLE[:, 3] > 0], axis=1).astype(int)
TARGETS = {"two": TWO, "three": THREE, "text": np.where(TWO, "yes", "no"), "share": SHARE, "both": BOTH, "labels": LABELS}

XGBOOST = [
    *(("XGBClassifier", "two", {"objective": f"binary:{name}"}) for name in ("logistic", "logitraw", "hinge")),
    *(("XGBClassifier", "three", {"objective": f"multi:{name}"}) for name in ("softprob", "softmax")),
    *(
        ("XGBRegressor", "positive", {"objective": name})
        for name in ("reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "count:poisson", "reg:gamma")
    ),
    ("XGBRegressor", "positive", {"objective": "reg:tweedie", "tweedie_variance_power": 1.3}),
    ("XGBRegressor", "positive", {"objective": "survival:cox"}),
    ("XGBRegressor", "positive", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}),
    ("XGBRegressor", "share", {"objective": "reg:logistic"}),
    ("XGBRegressor", "positive", {"base_score": 3.0}),
    ("XGBClassifier", "two", {"base_score": 0.2}),
    ("XGBClassifier", "three", {"base_score": 0.2}),
    ("XGBRegressor", "both", {}),
    ("XGBClassifier", "labels", {}),
    ("XGBClassifier", "three", {"booster": "dart", "rate_drop": 0.5, "one_drop": True}),
    ("XGBRFClassifier", "two", {}),
    ("XGBRegressor", "positive", {"num_parallel_tree": 3, "subsample": 0.7}),
    ("XGBRanker", "three", {}),
]
LIGHTGBM = [
    *(
        ("LGBMRegressor", "positive", {"objective": name})
        for name in ("regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie")
    ),
    ("LGBMRegressor", "share", {"objective": "cross_entropy"}),
    ("LGBMClassifier", "two", {"objective": "cross_entropy"}),
    ("LGBMClassifier", "three", {"objective": "multiclassova"}),
    ("LGBMClassifier", "text", {"sigmoid": 0.5}),
    ("LGBMClassifier", "three", {"boosting_type": "dart"}),
    ("LGBMClassifier", "three", {"boosting_type": "rf", "subsample": 0.6, "subsample_freq": 1}),
    ("LGBMRegressor", "positive", {"boost_from_average": False}),
    ("LGBMRegressor", "positive", {"use_missing": False}),
    ("LGBMRegressor", "positive", {"reg_sqrt": True}),
    ("LGBMRanker", "three", {}),
]


def named(case: tuple[str, str, dict[str, Any]]) -> str:
    return f"{case[0]} {case[1]} {' '.join(map(str, case[2].values()))}"


def fitted(name: str, target: Any, settings: dict[str, Any], table: Any) -> Any:
    import lightgbm
    import xgboost

    quick: dict[str, Any] = {"n_estimators": 4, "max_depth": 3, "n_jobs": 1}
    group: dict[str, Any] = {}
    if name.startswith("LGBM"):
        group = {"group": [20] * 10} if name == "LGBMRanker" else {}
        return getattr(lightgbm, name)(**quick, verbose=-1, min_child_samples=5, **settings).fit(table, target, **group)
    group = {"qid": np.repeat(np.arange(10), 20)} if name == "XGBRanker" else {}
    return getattr(xgboost, name)(**quick, **settings).fit(table, target, **group)


def difference(estimator: Any, table: Any, path: Path) -> float:
    joblib.dump(estimator, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = source_outputs(load_estimator(path, pickled=True, trust=True), [table])
    (actual,) = run_graph(read_sklearn(path, pickled=True, trust=True)[0], table)
    assert actual.shape == expected.shape
    return relative_difference(actual, expected)


@pytest.mark.parametrize("case", [*XGBOOST, *LIGHTGBM], ids=named)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_estimator_with_other_settings_computes_the_same(case: Any, tmp_path: Path) -> None:
    name, target, settings = case
    estimator = fitted(name, TARGETS.get(target, POSITIVE), settings, HOLES)
    assert difference(estimator, HOLES, tmp_path / "m.pkl") < 2e-5


@pytest.mark.parametrize("name", ["XGBClassifier", "XGBRegressor"])
@pytest.mark.parametrize("missing", [-999.0, 0.0])
def test_another_mark_of_missing_values_is_that_of_the_estimator(name: str, missing: float, tmp_path: Path) -> None:
    table = np.where(np.isnan(HOLES), np.float32(missing), HOLES)
    estimator = fitted(name, TWO, {"missing": missing}, table)
    assert difference(estimator, table, tmp_path / "m.pkl") < 2e-5


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "gamma", "poisson", "quantile"])
def test_a_loss_of_histogram_boosting_computes_the_same(loss: str, tmp_path: Path) -> None:
    estimator = HistGradientBoostingRegressor(max_iter=4, loss=loss, quantile=0.3 if loss == "quantile" else None)
    assert difference(estimator.fit(HOLES, POSITIVE), HOLES, tmp_path / "m.pkl") < 2e-5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_boosting_inside_other_estimators_computes_the_same(tmp_path: Path) -> None:
    members = [
        ("a", fitted("XGBClassifier", TWO, {}, HOLES)),
        ("b", fitted("LGBMClassifier", TWO, {}, HOLES)),
        ("c", HistGradientBoostingClassifier(max_iter=3)),
    ]
    voting = VotingClassifier(members, voting="soft").fit(HOLES, THREE)
    assert difference(voting, HOLES, tmp_path / "m.pkl") < 2e-5
    calibrated = CalibratedClassifierCV(fitted("XGBClassifier", TWO, {}, HOLES), cv=2).fit(HOLES, TWO)
    assert difference(calibrated, HOLES, tmp_path / "c.pkl") < 2e-5
