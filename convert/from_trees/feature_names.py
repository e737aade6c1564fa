"""Read the names of the columns that a model of tables was trained on, for messages about one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.from_trees.boosting import lightgbm_booster, xgboost_booster

_NUMBERED = re.compile(r"Column_\d+|f\d+|x\d+|\d+")
"""Names that a library gives to columns without one."""


def names_in_lightgbm(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a LightGBM text model; none if the training table had none."""
    return _own(lightgbm_booster(path).feature_name())


def names_in_xgboost(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of an XGBoost model; none if the training table had none."""
    return _own(xgboost_booster(path).feature_names or ())


def names_in_estimator(estimator: Any) -> tuple[str, ...]:
    """Return the names of the columns of a fitted estimator or pipeline; none if the training table had none."""
    for attribute in ("feature_names_in_", "feature_name_"):  # of scikit-learn and of LightGBM
        names = getattr(estimator, attribute, None)
        if names is not None:
            return _own(names)
    return ()


def _own(names: Sequence[object]) -> tuple[str, ...]:
    texts = tuple(map(str, names))
    return () if all(_NUMBERED.fullmatch(name) for name in texts) else texts
