"""Read the trees of scikit-learn's GradientBoosting estimators and of its IsolationForest.

Their thresholds are float64, and the features are compared in float32, as in the estimators themselves. Missing values take the
branch that training chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.from_trees.ensemble import Comparison, Ensemble, Link, TreeTable
from edgewright.errors import ModelError


def gradient_ensemble(estimator: Any, path: Path) -> Ensemble:
    """Return the trees of a fitted GradientBoostingClassifier or -Regressor.

    Raises:
        ModelError: its first prediction comes from an estimator, not from a constant.
    """
    if estimator.init_ != "zero" and not type(estimator.init_).__name__.startswith("Dummy"):
        raise ModelError(
            f"{path}: {type(estimator).__name__} must begin with a constant, but init is {type(estimator.init_).__name__}: "
            "train it without init"
        )
    features = int(estimator.n_features_in_)
    margins = np.asarray(estimator._raw_predict_init(np.zeros((1, features), np.float32)), np.float64).reshape(-1)
    table = TreeTable(Comparison.AT_MOST)
    for number, (margin, tree) in enumerate(
        (margin, part.tree_) for iteration in estimator.estimators_ for margin, part in enumerate(iteration)
    ):
        add_tree(table, number, tree, weights=estimator.learning_rate * tree.value[:, 0, 0], margin=margin)
    link, slope = _link(estimator, len(margins))
    return Ensemble(trees=table, feature_count=features, base_margins=tuple(margins.tolist()), link=link, slope=slope)


def _link(estimator: Any, margins: int) -> tuple[Link, float]:
    if not hasattr(estimator, "classes_"):
        return Link.IDENTITY, 1.0
    if margins > 1:
        return Link.SOFTMAX, 1.0
    return Link.TWO_CLASSES, 2.0 if estimator.loss == "exponential" else 1.0


def isolation_ensemble(forest: Any) -> Ensemble:
    """Return trees whose sum is the mean depth of a sample over the depth that is expected, of a fitted IsolationForest."""
    table = TreeTable(Comparison.AT_MOST)
    expected = _expected_depth(int(forest._max_samples)) * len(forest.estimators_)
    depths = zip(forest._decision_path_lengths, forest._average_path_length_per_tree, strict=True)
    for number, (part, features, (lengths, rest)) in enumerate(
        zip(forest.estimators_, forest.estimators_features_, depths, strict=True)
    ):
        weights = (lengths + rest - 1.0) / (expected or 1.0)
        add_tree(table, number, part.tree_, weights=weights, features=features)
    return Ensemble(trees=table, feature_count=int(forest.n_features_in_), base_margins=(0.0,), link=Link.IDENTITY)


def add_tree(
    table: TreeTable,
    number: int,
    tree: Any,
    *,
    weights: npt.NDArray[Any],
    margin: int = 0,
    features: Sequence[int] | None = None,
) -> None:
    """Add a `tree_` of scikit-learn; `features` are the columns of the tree's own features, if they are others."""
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count, np.uint8))
    for node in range(tree.node_count):
        if tree.children_left[node] < 0:
            table.leaf(number, node, margin=margin, weight=float(weights[node]))
            continue
        feature = int(tree.feature[node])
        table.split(
            number,
            node,
            feature=feature if features is None else int(features[feature]),
            threshold=float(tree.threshold[node]),
            left=int(tree.children_left[node]),
            right=int(tree.children_right[node]),
            missing_left=bool(missing[node]),
        )


def _expected_depth(count: int) -> float:
    """Return the mean depth of an unsuccessful search in a binary tree of `count` samples."""
    if count <= 2:
        return float(count == 2)
    return 2.0 * (float(np.log(count - 1.0)) + float(np.euler_gamma)) - 2.0 * (count - 1.0) / count
