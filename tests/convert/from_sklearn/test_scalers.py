"""Scalers give the very float32 of scikit-learn: trees after them have splits at values of the training table."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler

from convert.read_source import read_source
from convert.source.identify import SourceKind
from convert.source.options import SourceOptions
from convert.source.resource_limits import Limits
from tests.support.convert_networks import run_graph

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(400, 4)).astype(np.float32)
TABLE[GENERATOR.random(TABLE.shape) < 0.25] = -999
CLASSES = (TABLE[:, 0] + TABLE[:, 1] > 0.5).astype(int)


@pytest.mark.parametrize(
    "scaler",
    [
        pytest.param(StandardScaler(), id="both"),
        pytest.param(StandardScaler(with_mean=False), id="without mean"),
        pytest.param(StandardScaler(with_std=False), id="without deviation"),
        pytest.param(StandardScaler(with_mean=False, with_std=False), id="neither"),
        pytest.param(MinMaxScaler(), id="range"),
        pytest.param(MaxAbsScaler(), id="largest"),
        pytest.param(RobustScaler(), id="median and quartiles"),
        pytest.param(RobustScaler(with_centering=False), id="quartiles"),
        pytest.param(Normalizer("max"), id="norm"),
    ],
)
def test_trees_after_a_scaler_take_the_branches_of_scikit_learn(scaler: BaseEstimator, tmp_path: Path) -> None:
    pipeline = make_pipeline(scaler, HistGradientBoostingClassifier(max_iter=8)).fit(TABLE, CLASSES)
    joblib.dump(pipeline, tmp_path / "m.pkl")
    source = read_source(SourceKind.PICKLE, tmp_path / "m.pkl", SourceOptions(trust=True), Limits.of_this_machine)
    rows = np.concatenate([TABLE, np.nextafter(TABLE, np.float32(np.inf)), np.nextafter(TABLE, np.float32(-np.inf))])
    np.testing.assert_allclose(run_graph(source.model, rows)[0], pipeline.predict_proba(rows), atol=2e-6)
