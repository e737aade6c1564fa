"""The column that float32 cannot hold is named as in training."""

from __future__ import annotations

from pathlib import Path

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from accel.comparison import compare_outputs, measure_outputs
from convert.read_source import column_names
from convert.source.identify import SourceKind
from convert.source.options import SourceOptions
from convert.source.parity import report_on
from convert.source.precision import lost_by_float32
from edgewright.contracts.samples import Samples

NAMES = ["age", "seconds"]
TABLE = np.stack([np.arange(60.0), 1.7e9 + np.arange(60.0)], axis=1)
TARGET = TABLE[:, 0] * 2


def written(kind: str, path: Path, names: list[str] | None) -> SourceKind:
    """Train and write a model, with or without names."""
    if kind == "lightgbm":
        data = lightgbm.Dataset(TABLE, TARGET, feature_name=names or "auto", params={"verbose": -1})
        lightgbm.train({"verbose": -1, "num_threads": 1}, data, num_boost_round=2).save_model(path)
        return SourceKind.LIGHTGBM
    if kind == "xgboost":
        matrix = xgboost.DMatrix(TABLE, TARGET, feature_names=names)
        xgboost.train({"nthread": 1}, matrix, num_boost_round=2).save_model(path.with_suffix(".json"))
        path.with_suffix(".json").rename(path)
        return SourceKind.XGBOOST
    estimator = make_pipeline(StandardScaler(), LinearRegression()) if kind == "pipeline" else LinearRegression()
    estimator.fit(TABLE, TARGET)
    if names:
        first = estimator[0] if kind == "pipeline" else estimator
        first.feature_names_in_ = np.array(names, object)  # as `fit` stores the names of a data frame
    joblib.dump(estimator, path)
    return SourceKind.PICKLE


@pytest.mark.parametrize("names", [NAMES, None])
@pytest.mark.parametrize("kind", ["lightgbm", "xgboost", "estimator", "pipeline"])
def test_the_names_are_those_of_the_training_table(tmp_path: Path, kind: str, names: list[str] | None) -> None:
    source = written(kind, tmp_path / "m", names)
    assert column_names(source, tmp_path / "m", SourceOptions(trust=True)) == tuple(names or ())


@pytest.mark.parametrize(
    ("names", "named"), [(NAMES, "feature 1 'seconds' "), ([], "feature 1 "), (["of another table"], "feature 1 ")]
)
def test_the_message_has_the_name_beside_the_number(names: list[str], named: str) -> None:
    outputs = {"y": TARGET[:, None].astype(np.float32)}
    report = report_on(compare_outputs(outputs, outputs), measure_outputs(outputs, outputs, None), generated=False)
    samples = Samples({"features": TABLE.astype(np.float32)}, given={"features": TABLE})
    assert lost_by_float32(samples, report, lambda: names).startswith(
        f"float32 cannot hold the values of features, {named}(1700000000 and 1700000001 become 1700000000)"
    )
