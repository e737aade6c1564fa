"""Read the trees of scikit-learn's HistGradientBoosting estimators, which skl2onnx cannot convert with the installed protobuf.

Missing values take the branch that training chose, as in the estimator itself. Categorical features are rejected, because ONNX's
trees compare numbers only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert.from_trees.ensemble import Comparison, Ensemble, Link, TreeTable
from edgewright.errors import ModelError

_LINKS = {"IdentityLink": Link.IDENTITY, "LogLink": Link.EXP, "LogitLink": Link.TWO_CLASSES, "MultinomialLogit": Link.SOFTMAX}


def histogram_ensemble(estimator: Any, path: Path) -> Ensemble:
    """Return the trees of a fitted HistGradientBoostingClassifier or -Regressor.

    Raises:
        ModelError: a feature is categorical.
    """
    if estimator.is_categorical_ is not None:
        raise ModelError(
            f"{path} has categorical splits, which cannot be converted: encode categories as numbers before training"
        )
    table = TreeTable(Comparison.AT_MOST)
    trees = [(margin, predictor) for iteration in estimator._predictors for margin, predictor in enumerate(iteration)]
    for tree, (margin, predictor) in enumerate(trees):
        for number, node in enumerate(predictor.nodes):
            if node["is_leaf"]:
                table.leaf(tree, number, margin=margin, weight=float(node["value"]))
            else:
                table.split(
                    tree,
                    number,
                    feature=int(node["feature_idx"]),
                    threshold=float(node["num_threshold"]),
                    left=int(node["left"]),
                    right=int(node["right"]),
                    missing_left=bool(node["missing_go_to_left"]),
                )
    return Ensemble(
        trees=table,
        feature_count=int(estimator.n_features_in_),
        base_margins=tuple(float(margin) for margin in estimator._baseline_prediction.ravel()),
        link=_LINKS[type(estimator._loss.link).__name__],
    )
