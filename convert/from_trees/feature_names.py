"""Read the names of the columns that a model of tables was trained on, for messages about one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.from_trees.boosting import lightgbm_booster, xgboost_booster
from convert.from_trees.sklearn import load_estimator
from convert.source.identify import SourceKind

_NUMBERED = re.compile(r"Column_\d+|f\d+|x\d+|\d+")
"""Names that a library gives to columns without one."""


def feature_names(kind: SourceKind, path: Path, *, trust: bool) -> tuple[str, ...]:
    """Return the names of the columns in their order; none if the model was trained on a table without names.

    Raises:
        ModelError: the model cannot be loaded.
    """
    match kind:
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            return _of_estimator(load_estimator(path, pickled=kind is SourceKind.PICKLE, trust=trust))
        case SourceKind.LIGHTGBM:
            return _own(lightgbm_booster(path).feature_name())
        case SourceKind.XGBOOST:
            return _own(xgboost_booster(path).feature_names or ())
    return ()


def _of_estimator(estimator: Any) -> tuple[str, ...]:
    for attribute in ("feature_names_in_", "feature_name_"):  # of scikit-learn and of LightGBM
        names = getattr(estimator, attribute, None)
        if names is not None:
            return _own(names)
    return ()


def _own(names: Sequence[object]) -> tuple[str, ...]:
    texts = tuple(map(str, names))
    return () if all(_NUMBERED.fullmatch(name) for name in texts) else texts
