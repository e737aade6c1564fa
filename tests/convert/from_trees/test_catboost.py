"""CatBoost: every loss computes the same in ONNX, including missing values, and other features than numbers are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from click.testing import CliRunner

from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import source_outputs
from convert.from_trees import catboost_trees
from convert.from_trees.catboost_trees import catboost_outputs, read_catboost
from convert.source.identify import SourceKind, identify
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import BadInputError, ModelError
from tests.support.convert_networks import relative_difference, run_graph

GENERATOR = np.random.default_rng(0)
WHOLE = GENERATOR.normal(size=(200, 4)).astype(np.float32)
HOLES = np.where(GENERATOR.random(WHOLE.shape) < 0.2, np.float32(np.nan), WHOLE)
TWO = (WHOLE[:, 0] + WHOLE[:, 1] > 0).astype(int)
THREE = TWO + (WHOLE[:, 2] > 0)
POSITIVE = np.exp(WHOLE[:, 0])
TARGETS: dict[str, Any] = {
    "two": TWO,
    "three": THREE,
    "text": np.where(TWO, "yes", "no"),
    "positive": POSITIVE,
    "both": np.stack([POSITIVE, WHOLE[:, 2]], axis=1),
    "labels": np.stack([TWO, WHOLE[:, 3] > 0], axis=1).astype(int),
}


@pytest.fixture
def catboost() -> Any:
    return pytest.importorskip("catboost", reason="CatBoost is not part of the development environment (its wheel has 97 MB)")


def saved(catboost: Any, path: Path, target: str, settings: dict[str, Any], table: Any = HOLES) -> Path:
    quick = {"iterations": 5, "depth": 3, "verbose": 0, "thread_count": 1, "allow_writing_files": False, **settings}
    if settings.get("grow_policy") == "Lossguide":
        quick.pop("depth")
    catboost.CatBoost(quick).fit(table, TARGETS[target]).save_model(str(path))
    return path


CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("two", {"loss_function": "Logloss"}, ("0", "1")),
    ("two", {"loss_function": "Logloss", "nan_mode": "Max"}, ("0", "1")),
    ("text", {"loss_function": "Logloss"}, ("no", "yes")),
    ("three", {"loss_function": "MultiClass"}, ("0", "1", "2")),
    ("three", {"loss_function": "MultiClassOneVsAll"}, ("0", "1", "2")),
    ("labels", {"loss_function": "MultiLogloss"}, ()),
    *(
        ("positive", {"loss_function": loss}, ())
        for loss in ("RMSE", "MAE", "Poisson", "Quantile:alpha=0.3", "Tweedie:variance_power=1.5", "Huber:delta=1.0")
    ),
    ("both", {"loss_function": "MultiRMSE"}, ()),
    ("three", {"loss_function": "MultiClass", "grow_policy": "Lossguide", "max_leaves": 6}, ("0", "1", "2")),
    ("positive", {"loss_function": "RMSE", "grow_policy": "Depthwise"}, ()),
]


@pytest.mark.parametrize(("target", "settings", "labels"), CASES, ids=[" ".join(map(str, case[1].values())) for case in CASES])
def test_a_catboost_model_computes_the_same(
    catboost: Any, target: str, settings: dict[str, Any], labels: tuple[str, ...], tmp_path: Path
) -> None:
    path = saved(catboost, tmp_path / "m.cbm", target, settings)
    graph, named = read_catboost(path)
    batch = np.concatenate([WHOLE, HOLES])
    expected = catboost_outputs(path, batch)
    (actual,) = run_graph(graph, batch)
    assert identify(path) is SourceKind.CATBOOST
    assert named == labels
    assert actual.shape == expected.shape
    assert relative_difference(actual, expected) < 1e-5


def test_the_command_converts_and_verifies_a_catboost_model(catboost: Any, tmp_path: Path) -> None:
    path = saved(catboost, tmp_path / "m.cbm", "three", {"loss_function": "MultiClass"})
    result = CliRunner().invoke(main, ["convert", str(path), "-o", str(tmp_path / "build")])
    assert result.exit_code == 0, result.output
    record = BuildDirectory.open(tmp_path / "build").record
    assert (record.source_kind, record.labels) == ("catboost", ("0", "1", "2"))
    assert json.loads((tmp_path / "build" / "reports" / "parity.json").read_text("utf-8"))["agreement"] == 1.0


def test_an_estimator_in_a_pickle_computes_the_same(catboost: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iterations": 3, "depth": 3, "verbose": 0, "allow_writing_files": False}
    estimator = catboost.CatBoostClassifier(**settings).fit(HOLES, THREE)
    joblib.dump(estimator, tmp_path / "m.pkl")
    graph, labels = read_sklearn(tmp_path / "m.pkl", pickled=True, trust=True)
    assert labels == ("0", "1", "2")
    assert relative_difference(run_graph(graph, HOLES)[0], estimator.predict_proba(HOLES).astype(np.float32)) < 1e-5
    regressor = catboost.CatBoostRegressor(loss_function="Poisson", **settings).fit(HOLES, POSITIVE)
    joblib.dump(regressor, tmp_path / "r.pkl")
    graph, _ = read_sklearn(tmp_path / "r.pkl", pickled=True, trust=True)
    expected = source_outputs(load_estimator(tmp_path / "r.pkl", pickled=True, trust=True), [HOLES])[0]
    np.testing.assert_allclose(expected[:, 0], regressor.predict(HOLES), rtol=1e-5)
    assert relative_difference(run_graph(graph, HOLES)[0], expected) < 1e-5


def test_categorical_features_are_refused_by_name(catboost: Any, tmp_path: Path) -> None:
    table = np.array([[str(int(one * 2)), float(two)] for one, two in WHOLE[:, :2]], object)
    model = catboost.CatBoost({"iterations": 2, "verbose": 0, "loss_function": "Logloss", "allow_writing_files": False})
    model.fit(table, TWO, cat_features=[0]).save_model(str(tmp_path / "m.cbm"))
    with pytest.raises(ModelError) as caught:
        read_catboost(tmp_path / "m.cbm")
    assert str(caught.value) == (
        f"{tmp_path / 'm.cbm'} has categorical features (0), which cannot be converted: encode them as numbers before training"
    )


def test_a_machine_without_catboost_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.cbm").write_bytes(b"CBM1\x00\x00\x00\x00")
    monkeypatch.delitem(sys.modules, "catboost", raising=False)
    monkeypatch.setattr(catboost_trees, "find_spec", lambda _name: None)
    with pytest.raises(BadInputError) as caught:
        read_catboost(tmp_path / "m.cbm")
    assert str(caught.value) == (
        f"{tmp_path / 'm.cbm'} needs CatBoost, which is not installed. Run: pip install 'edgewright[catboost]'"
    )
