"""LightGBM and XGBoost: every objective computes the same in ONNX, including missing values."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import source_outputs
from convert.from_trees import boosting as from_boosting
from convert.from_trees.ensemble import rounded_down
from convert.passes.simplify import simplify
from convert.source.identify import SourceKind, identify
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import ModelError
from tests.support.convert_networks import digits, relative_difference, run_graph


@pytest.fixture(autouse=True)
def _boosting(require_package: Any) -> None:
    require_package("lightgbm")
    require_package("xgboost")


def features() -> Any:
    return digits()[0].reshape(-1, 64)[:400]


def with_gaps() -> Any:
    """Return the features with a fifth of the values missing."""
    gone = np.random.default_rng(0).random(features().shape) < 0.2
    return np.where(gone, np.nan, features()).astype(np.float32)


CLASSES, HALVES, COUNTS, SHARES = (
    digits()[1][:400],
    (digits()[1][:400] > 4).astype(int),
    digits()[1][:400].astype(float) + 1,
    digits()[1][:400] / 10,
)


def lightgbm_file(path: Path, target: Any, given: Any, **settings: Any) -> Path:
    import lightgbm

    quick = {"verbose": -1, "num_leaves": 6, "num_threads": 1, "min_data_in_leaf": 5}
    lightgbm.train({**quick, **settings}, lightgbm.Dataset(given, target), 4).save_model(path)
    return path


def xgboost_file(path: Path, target: Any, given: Any, **settings: Any) -> Path:
    import xgboost

    quick = {"max_depth": 3, "nthread": 1, "verbosity": 0}
    xgboost.train({**quick, **settings}, xgboost.DMatrix(given, target), 4).save_model(path)
    return path


LIGHTGBM = [
    pytest.param(CLASSES, {"objective": "multiclass", "num_class": 10}, 10, id="multiclass"),
    pytest.param(CLASSES, {"objective": "multiclassova", "num_class": 10, "sigmoid": 0.7}, 10, id="one versus all"),
    pytest.param(HALVES, {"objective": "binary", "sigmoid": 2.0}, 2, id="binary"),
    pytest.param(COUNTS, {"objective": "regression"}, 0, id="regression"),
    pytest.param(COUNTS, {"objective": "regression", "reg_sqrt": True}, 0, id="square root"),
    pytest.param(COUNTS, {"objective": "poisson"}, 0, id="poisson"),
    pytest.param(COUNTS, {"objective": "tweedie"}, 0, id="tweedie"),
    pytest.param(SHARES, {"objective": "cross_entropy"}, 0, id="cross entropy"),
    pytest.param(SHARES, {"objective": "cross_entropy_lambda"}, 0, id="cross entropy lambda"),
    pytest.param(HALVES, {"boosting": "dart", "objective": "binary", "drop_rate": 0.9}, 2, id="dart"),
    pytest.param(
        HALVES,
        {"boosting": "rf", "objective": "binary", "bagging_freq": 1, "bagging_fraction": 0.6},
        2,
        id="random forest",
    ),
    pytest.param(np.ones(400), {"objective": "regression"}, 0, id="nothing to split"),
]
XGBOOST = [
    pytest.param(CLASSES, {"objective": "multi:softprob", "num_class": 10}, 10, id="softprob"),
    pytest.param(CLASSES, {"objective": "multi:softmax", "num_class": 10}, 10, id="softmax"),
    pytest.param(HALVES, {"objective": "binary:logistic"}, 2, id="logistic"),
    pytest.param(HALVES, {"objective": "binary:logitraw"}, 2, id="raw margin"),
    pytest.param(HALVES, {"objective": "binary:hinge"}, 2, id="hinge"),
    pytest.param(COUNTS, {"objective": "reg:squarederror"}, 0, id="regression"),
    pytest.param(SHARES, {"objective": "reg:logistic"}, 0, id="share"),
    pytest.param(COUNTS, {"objective": "count:poisson"}, 0, id="poisson"),
    pytest.param(COUNTS, {"objective": "reg:gamma"}, 0, id="gamma"),
    pytest.param(COUNTS, {"objective": "survival:cox"}, 0, id="survival"),
    pytest.param(COUNTS, {"objective": "rank:pairwise"}, 0, id="ranking"),
    pytest.param(HALVES, {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.9}, 2, id="dart"),
    pytest.param(np.stack([COUNTS, SHARES], 1), {"objective": "reg:squarederror", "base_score": 0.3}, 0, id="several outputs"),
]


@pytest.mark.parametrize("given", [pytest.param(features, id="complete"), pytest.param(with_gaps, id="gaps in training")])
@pytest.mark.parametrize(("target", "settings", "classes"), LIGHTGBM)
def test_a_lightgbm_model_computes_the_same(target: Any, settings: Any, classes: int, given: Any, tmp_path: Path) -> None:
    path = lightgbm_file(tmp_path / "model", target, given(), **settings)
    graph, labels = from_boosting.read_lightgbm(path)
    batch = np.concatenate([features(), with_gaps()])
    expected = from_boosting.lightgbm_outputs(path, batch)
    assert identify(path) is SourceKind.LIGHTGBM
    assert len(labels) == classes
    assert relative_difference(run_graph(graph, batch)[0], expected) < 1e-5


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize(("target", "settings", "classes"), XGBOOST)
def test_an_xgboost_model_computes_the_same(target: Any, settings: Any, classes: int, form: str, tmp_path: Path) -> None:
    path = xgboost_file(tmp_path / f"model.{form}", target, with_gaps(), **settings)
    graph, labels = from_boosting.read_xgboost(path)
    batch = np.concatenate([features(), with_gaps()])
    expected = from_boosting.xgboost_outputs(path, batch)
    assert identify(path) is SourceKind.XGBOOST
    assert len(labels) == classes
    assert relative_difference(run_graph(graph, batch)[0], expected) < 1e-5


def test_features_on_both_sides_of_an_xgboost_threshold_take_the_side_of_the_source(tmp_path: Path) -> None:
    given = np.random.default_rng(7).standard_normal((300, 6)).astype(np.float32)
    path = xgboost_file(tmp_path / "m.json", (given[:, 0] + given[:, 3] > 0).astype(int), given, objective="binary:logistic")
    trees = json.loads(path.read_text())["learner"]["gradient_booster"]["model"]["trees"]
    thresholds = [np.float32(value) for tree in trees for value in tree["split_conditions"]]
    samples = given[:12].copy()
    rows = [
        np.where(np.arange(6) == feature, value, sample) for value in thresholds for feature in range(6) for sample in samples
    ]
    near = np.concatenate(
        [np.nextafter(np.asarray(rows, np.float32), np.float32(side)) for side in (-np.inf, np.inf)]
        + [np.asarray(rows, np.float32)]
    )
    graph, _ = from_boosting.read_xgboost(path)
    expected = from_boosting.xgboost_outputs(path, near)
    assert relative_difference(run_graph(graph, near)[0], expected) < 1e-6


@given(number=st.floats(allow_nan=False, allow_infinity=False), threshold=st.floats(allow_nan=False))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_float_takes_the_same_side_of_a_rounded_threshold(number: float, threshold: float) -> None:
    with np.errstate(over="ignore"):
        near = np.float32(number)
    rounded = np.float32(rounded_down(threshold))
    assert bool(near <= rounded) == (float(near) <= threshold)


def estimators() -> list[Any]:
    from lightgbm import LGBMClassifier, LGBMRegressor
    from xgboost import XGBClassifier, XGBRegressor

    quick: dict[str, Any] = {"n_estimators": 3, "max_depth": 3, "n_jobs": 1}
    return [
        LGBMClassifier(**quick, verbose=-1),
        LGBMRegressor(**quick, verbose=-1),
        XGBClassifier(**quick),
        XGBRegressor(**quick),
    ]


@pytest.mark.parametrize("place", range(4), ids=["LGBMClassifier", "LGBMRegressor", "XGBClassifier", "XGBRegressor"])
@pytest.mark.parametrize("piped", [False, True], ids=["alone", "after a scaler"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_a_boosting_estimator_in_scikit_learn_computes_the_same(place: int, piped: bool, tmp_path: Path) -> None:
    estimator = estimators()[place]
    estimator = make_pipeline(MinMaxScaler(), estimator) if piped else estimator
    joblib.dump(estimator.fit(features(), CLASSES), tmp_path / "model.pkl")
    graph, labels = read_sklearn(tmp_path / "model.pkl", pickled=True, trust=True)
    simplify(graph, check_each=True)
    assert [value.name for value in graph.graph.inputs] == ["features"]
    assert relative_difference(run_graph(graph, features())[0], source_outputs(estimator, [features()])[0]) < 1e-5
    assert labels == (tuple("0123456789") if "Classifier" in str(estimator) else ())


@pytest.mark.parametrize("place", [0, 2], ids=["LGBMClassifier", "XGBClassifier"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_a_boosting_estimator_in_a_skops_file_needs_trust(place: int, tmp_path: Path) -> None:
    estimator = estimators()[place].fit(features(), CLASSES)
    skops.io.dump(estimator, tmp_path / "model.skops")
    with pytest.raises(ModelError, match="add --trust if you made it$"):
        read_sklearn(tmp_path / "model.skops", pickled=False, trust=False)
    graph, _ = read_sklearn(tmp_path / "model.skops", pickled=False, trust=True)
    assert relative_difference(run_graph(graph, features())[0], source_outputs(estimator, [features()])[0]) < 1e-5


def held_out() -> dict[str, Any]:
    return {"eval_set": [(features()[200:], CLASSES[200:])]}


def xgboost_stopped(**settings: Any) -> Any:
    """Return an XGBoost classifier whose training was stopped early."""
    from xgboost import XGBClassifier

    estimator = XGBClassifier(n_estimators=60, learning_rate=1.5, n_jobs=1, **settings)
    estimator.fit(features()[:200], CLASSES[:200], verbose=False, **held_out())
    assert estimator.get_booster().num_boosted_rounds() > estimator.best_iteration + 1
    return estimator


def xgboost_callback(**settings: Any) -> Any:
    from xgboost.callback import EarlyStopping

    return xgboost_stopped(callbacks=[EarlyStopping(rounds=2, **settings)])


def lightgbm_stopped() -> Any:
    import lightgbm

    estimator = lightgbm.LGBMClassifier(n_estimators=60, learning_rate=1.5, n_jobs=1, verbose=-1)
    callbacks: list[Any] = [lightgbm.early_stopping(2, verbose=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions deprecate eval_set, which older ones need
        estimator.fit(features()[:200], CLASSES[:200], callbacks=callbacks, **held_out())
    assert 0 < estimator.best_iteration_ < 60
    return estimator


def hist_stopped() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=20, learning_rate=1.5, early_stopping=True, n_iter_no_change=2).fit(
        features(), CLASSES
    )


def gradient_stopped() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    estimator = GradientBoostingClassifier(n_estimators=20, learning_rate=1.5, n_iter_no_change=1, max_depth=2)
    return estimator.fit(features(), CLASSES)


STOPPED = [
    pytest.param(lambda: xgboost_stopped(early_stopping_rounds=2), id="XGBoost parameter"),
    pytest.param(xgboost_callback, id="XGBoost callback"),
    pytest.param(
        lambda: xgboost_stopped(early_stopping_rounds=2, num_parallel_tree=2, subsample=0.7), id="XGBoost parallel trees"
    ),
    pytest.param(lambda: xgboost_stopped(early_stopping_rounds=2, booster="dart", rate_drop=0.3), id="XGBoost dart"),
    pytest.param(lightgbm_stopped, id="LightGBM callback"),
    pytest.param(hist_stopped, id="HistGradientBoosting"),
    pytest.param(gradient_stopped, id="GradientBoosting"),
]


@pytest.mark.parametrize("build", STOPPED)
def test_an_estimator_with_early_stopping_uses_the_trees_of_its_own_predict(build: Any, tmp_path: Path) -> None:
    estimator = build()
    joblib.dump(estimator, tmp_path / "model.pkl")
    graph, _ = read_sklearn(tmp_path / "model.pkl", pickled=True, trust=True)
    assert relative_difference(run_graph(graph, features())[0], estimator.predict_proba(features()).astype(np.float32)) < 1e-5


def test_an_xgboost_estimator_saved_as_a_booster_uses_its_best_trees_only(tmp_path: Path) -> None:
    estimator = xgboost_callback()
    estimator.save_model(tmp_path / "model.json")
    graph, _ = from_boosting.read_xgboost(tmp_path / "model.json")
    expected = estimator.predict_proba(features())
    assert relative_difference(run_graph(graph, features())[0], expected) < 1e-5
    assert relative_difference(from_boosting.xgboost_outputs(tmp_path / "model.json", features()), expected) < 1e-6


def test_a_booster_that_no_estimator_saved_uses_all_its_trees(tmp_path: Path) -> None:
    import xgboost

    booster = xgboost_callback().get_booster()
    booster.save_model(tmp_path / "model.json")
    graph, _ = from_boosting.read_xgboost(tmp_path / "model.json")
    expected = booster.predict(xgboost.DMatrix(features()))
    assert relative_difference(run_graph(graph, features())[0], expected) < 1e-5


def test_the_command_converts_and_verifies_a_booster(tmp_path: Path) -> None:
    model = xgboost_file(tmp_path / "model.ubj", HALVES, features(), objective="binary:logistic")
    result = CliRunner().invoke(main, ["convert", str(model), "-o", str(tmp_path / "build"), "--labels", "low,high"])
    assert result.exit_code == 0, result.output
    record = BuildDirectory.open(tmp_path / "build").record
    assert (record.source_kind, record.labels) == ("xgboost", ("low", "high"))
    assert [str(spec) for spec in (*record.inputs, *record.outputs)] == ["features float32[N, 64]", "probabilities float32[N, 2]"]
    assert json.loads((tmp_path / "build" / "reports" / "parity.json").read_text("utf-8"))["agreement"] == 1.0


def refusal(read: Any, path: Path) -> str:
    with pytest.raises(ModelError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(path)
    return str(caught.value)


def test_lightgbm_trees_that_onnx_cannot_express_are_rejected(tmp_path: Path) -> None:
    categories = np.tile(np.arange(8.0), 50).reshape(-1, 1)
    target = categories[:, 0] % 3
    path = lightgbm_file(tmp_path / "categories", target, categories, categorical_feature=[0], min_data_per_group=1, cat_smooth=1)
    assert refusal(from_boosting.read_lightgbm, path) == (
        f"{path} has a categorical split (feature 0), which cannot be converted: encode categories as numbers before training"
    )
    path = lightgbm_file(tmp_path / "linear", COUNTS, features(), linear_tree=True)
    assert refusal(from_boosting.read_lightgbm, path) == (
        f"{path} has linear trees (linear_tree=true), which cannot be converted: train it with linear_tree=false"
    )


def test_xgboost_trees_that_onnx_cannot_express_are_rejected(tmp_path: Path) -> None:
    path = xgboost_file(tmp_path / "linear.json", COUNTS, features(), booster="gblinear")
    assert refusal(from_boosting.read_xgboost, path) == (
        f"{path} has no trees (booster gblinear), which cannot be converted: train it with booster=gbtree"
    )
    both = np.stack([COUNTS, SHARES], 1)
    path = xgboost_file(tmp_path / "vector.json", both, features(), multi_strategy="multi_output_tree", tree_method="hist")
    assert refusal(from_boosting.read_xgboost, path) == (
        f"{path} has trees with several outputs each, which cannot be converted: train it with multi_strategy=one_output_per_tree"
    )


def test_a_truncated_model_is_rejected_in_one_line(tmp_path: Path) -> None:
    path = xgboost_file(tmp_path / "model.json", HALVES, features(), objective="binary:logistic")
    path.write_bytes(path.read_bytes()[:2000])
    assert refusal(from_boosting.read_xgboost, path).startswith(f"{path}: XGBoost cannot load this model: ")
    path = lightgbm_file(tmp_path / "model.txt", HALVES, features(), objective="binary")
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(from_boosting.read_lightgbm, path).startswith(f"{path}: LightGBM cannot load this model: ")
