"""Read LightGBM models (text) and XGBoost models (JSON or UBJSON).

    load         the framework loads the file and dumps its trees
    TreeTable    the nodes of all trees, which ensemble.py emits as ONNX
    Link         the function from margins to the output, chosen by the objective

Both formats hold data only, so no trust is needed. Trees that ONNX cannot express (categorical splits, linear leaves, several
outputs per tree) are rejected by name. Boosters inside scikit-learn estimators are read here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_trees.catboost_trees import catboost_ensemble
from convert.from_trees.ensemble import Comparison, Ensemble, Link, TreeTable, graph_of
from convert.from_trees.histogram_trees import histogram_ensemble
from convert.from_trees.scikit_trees import gradient_ensemble
from edgewright.errors import ModelError, first_line

Scores = npt.NDArray[np.float32]

_LIGHTGBM_LINKS = {
    "binary": Link.TWO_CLASSES,
    "multiclass": Link.SOFTMAX,
    "multiclassova": Link.ONE_VERSUS_ALL,
    "cross_entropy": Link.SIGMOID,
    "cross_entropy_lambda": Link.LOG_1P_EXP,
    "poisson": Link.EXP,
    "gamma": Link.EXP,
    "tweedie": Link.EXP,
}
_XGBOOST_LINKS = {
    "binary:logistic": Link.TWO_CLASSES,
    "binary:logitraw": Link.TWO_SCORES,
    "binary:hinge": Link.HINGE,
    "multi:softprob": Link.SOFTMAX,
    "multi:softmax": Link.SOFTMAX,
    "reg:logistic": Link.SIGMOID,
    "count:poisson": Link.EXP,
    "reg:gamma": Link.EXP,
    "reg:tweedie": Link.EXP,
    "survival:cox": Link.EXP,
    "survival:aft": Link.EXP,
}
_ESTIMATOR_ATTRIBUTE = "scikit_learn"
"""The attribute that XGBoost's estimators write into a booster that they save."""
_LOGISTIC = ("binary:logistic", "reg:logistic")


def read_lightgbm(path: Path, *, nearest: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of a LightGBM text model and its class labels (empty for a regressor).

    Raises:
        ModelError: the model cannot be loaded, or has a split without counterpart in ONNX.
    """
    ensemble = lightgbm_ensemble(lightgbm_booster(path), path)
    return graph_of(ensemble, nearest=nearest), ensemble.labels


def read_xgboost(path: Path) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of an XGBoost model and its class labels (empty for a regressor).

    Raises:
        ModelError: the model cannot be loaded, is not a tree booster, or has a split without counterpart in ONNX.
    """
    ensemble = xgboost_ensemble(_used_trees(xgboost_booster(path)), path)
    return graph_of(ensemble), ensemble.labels


def lightgbm_outputs(path: Path, features: npt.NDArray[Any]) -> Scores:
    """Return LightGBM's own predictions in the shape of the graph's output, [samples, outputs]."""
    booster = lightgbm_booster(path)
    return _as_columns(booster.predict(features), lightgbm_ensemble(booster, path).link)


def xgboost_outputs(path: Path, features: npt.NDArray[Any]) -> Scores:
    """Return XGBoost's own predictions in the shape of the graph's output, [samples, outputs]."""
    import xgboost

    booster = _used_trees(xgboost_booster(path))
    ensemble = xgboost_ensemble(booster, path)
    if ensemble.link is Link.SOFTMAX:
        booster.set_param({"objective": "multi:softprob"})  # multi:softmax returns only the index of the largest class
    return _as_columns(booster.predict(xgboost.DMatrix(features), validate_features=False), ensemble.link)


def ensemble_of_estimator(estimator: Any, path: Path) -> Ensemble | None:
    """Return the trees of a fitted boosting estimator, or None for estimators that skl2onnx converts."""
    if type(estimator).__name__ in ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"):
        return histogram_ensemble(estimator, path)
    if type(estimator).__name__ in ("GradientBoostingClassifier", "GradientBoostingRegressor"):
        return gradient_ensemble(estimator, path)
    family = type(estimator).__module__.partition(".")[0]
    if family == "lightgbm":
        return lightgbm_ensemble(estimator.booster_, path)
    if family == "catboost":
        return catboost_ensemble(estimator, path)
    if family == "xgboost":
        ensemble = xgboost_ensemble(_best_trees(estimator.get_booster()), path)
        missing = float(np.float32(estimator.missing))
        return ensemble if np.isnan(missing) else replace(ensemble, missing_number=missing)
    return None


def lightgbm_ensemble(booster: Any, path: Path) -> Ensemble:
    """Return the trees of a LightGBM booster."""
    dump = booster.dump_model()
    per_iteration = int(dump["num_tree_per_iteration"])
    roots = [tree["tree_structure"] for tree in dump["tree_info"]]
    scale = per_iteration / len(roots) if dump.get("average_output") and roots else 1.0  # a random forest averages its trees
    table = TreeTable(Comparison.AT_MOST)
    zero_is_missing = set()
    for tree, root in enumerate(roots):
        for number, node in _numbered(root):
            if node.get("missing_type") == "Zero":
                zero_is_missing.add(int(node["split_feature"]))
            if "leaf_value" in node:
                if "leaf_coeff" in node:
                    _reject(path, "linear trees (linear_tree=true)", "train it with linear_tree=false")
                table.leaf(tree, number, margin=tree % per_iteration, weight=node["leaf_value"] * scale)
            else:
                _lightgbm_split(table, tree, number, node, path)
    link, slope = _lightgbm_link(str(dump.get("objective", "")))
    return Ensemble(
        trees=table,
        feature_count=int(dump["max_feature_idx"]) + 1,
        base_margins=(0.0,) * per_iteration,
        link=link,
        slope=slope,
        zero_is_missing=frozenset(zero_is_missing),
    )


def xgboost_ensemble(booster: Any, path: Path) -> Ensemble:
    """Return the trees of an XGBoost booster."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    boosting = learner["gradient_booster"]
    if boosting["name"] not in ("gbtree", "dart"):
        _reject(path, f"no trees (booster {boosting['name']})", "train it with booster=gbtree")
    model = boosting.get("gbtree", boosting)["model"]
    weights = boosting.get("weight_drop") or [1.0] * len(model["trees"])
    table = TreeTable(Comparison.BELOW)
    for tree, (nodes, margin, weight) in enumerate(zip(model["trees"], model["tree_info"], weights, strict=True)):
        _xgboost_tree(table, tree, nodes, margin=int(margin), weight=float(weight), path=path)
    objective, parameters = learner["objective"]["name"], learner["learner_model_param"]
    margins = max(int(parameters["num_class"]), int(parameters["num_target"]), 1)
    return Ensemble(
        trees=table,
        feature_count=int(parameters["num_feature"]),
        base_margins=_base_margins(parameters["base_score"], objective, margins),
        link=_xgboost_link(objective, targets=int(parameters["num_target"])),
    )


def lightgbm_booster(path: Path) -> Any:
    """Load a LightGBM text model; raise `ModelError` if it cannot be loaded."""
    import lightgbm

    lightgbm.register_logger(_Quiet())
    try:
        return lightgbm.Booster(model_file=str(path), params={"verbose": -1})
    except (lightgbm.basic.LightGBMError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: LightGBM cannot load this model: {first_line(error)}") from error


def xgboost_booster(path: Path) -> Any:
    """Load an XGBoost model; raise `ModelError` if it cannot be loaded."""
    import xgboost

    try:
        with xgboost.config_context(verbosity=0):
            booster = xgboost.Booster()
            booster.load_model(bytearray(path.read_bytes()))
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise ModelError(f"{path}: XGBoost cannot load this model: {first_line(error)}") from error
    return booster


def _used_trees(booster: Any) -> Any:
    """Return the trees that the author's `predict` uses: the best of an estimator that was saved, all of another booster."""
    return booster if booster.attr(_ESTIMATOR_ATTRIBUTE) is None else _best_trees(booster)


def _best_trees(booster: Any) -> Any:
    """Return the trees up to the best iteration, if early stopping recorded one; an estimator's `predict` uses these only."""
    best = booster.attr("best_iteration")
    return booster if best is None else booster[: int(best) + 1]


class _Quiet:
    """Logger that discards messages; LightGBM's own writes to standard output, which is for results."""

    def info(self, _message: str) -> None:
        """Discard a message."""

    def warning(self, _message: str) -> None:
        """Discard a message."""


def _numbered(root: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered nodes of a tree, root first; the numbers of a split's children are stored in it."""
    pending, count = [(0, root)], 1
    while pending:
        number, node = pending.pop()
        if "left_child" in node:
            node["left"], node["right"] = count, count + 1
            pending += [(count, node["left_child"]), (count + 1, node["right_child"])]
            count += 2
        yield number, node


def _lightgbm_split(table: TreeTable, tree: int, number: int, node: dict[str, Any], path: Path) -> None:
    if node["decision_type"] != "<=":
        _reject(path, f"a categorical split (feature {node['split_feature']})", "encode categories as numbers before training")
    threshold = float(node["threshold"])
    # A feature that was trained without missing values has them replaced by 0.
    missing_left = bool(node["default_left"]) if node["missing_type"] != "None" else threshold >= 0
    table.split(
        tree,
        number,
        feature=int(node["split_feature"]),
        threshold=threshold,
        left=node["left"],
        right=node["right"],
        missing_left=missing_left,
    )


def _lightgbm_link(objective: str) -> tuple[Link, float]:
    name, *options = objective.split() or [""]
    settings = dict(option.split(":", 1) for option in options if ":" in option)
    if "sqrt" in options:
        return Link.SIGNED_SQUARE, 1.0
    return _LIGHTGBM_LINKS.get(name, Link.IDENTITY), float(settings.get("sigmoid", 1.0))


def _xgboost_tree(table: TreeTable, tree: int, nodes: dict[str, Any], *, margin: int, weight: float, path: Path) -> None:
    if int(nodes["tree_param"]["size_leaf_vector"]) > 1:
        _reject(path, "trees with several outputs each", "train it with multi_strategy=one_output_per_tree")
    if any(nodes["split_type"]):
        _reject(path, "categorical splits", "encode categories as numbers before training")
    for number, (left, right) in enumerate(zip(nodes["left_children"], nodes["right_children"], strict=True)):
        value = float(np.float32(nodes["split_conditions"][number]))  # a decimal that rounds to the float32
        if left < 0:
            table.leaf(tree, number, margin=margin, weight=value * weight)
            continue
        table.split(
            tree,
            number,
            feature=int(nodes["split_indices"][number]),
            threshold=value,
            left=int(left),
            right=int(right),
            missing_left=bool(nodes["default_left"][number]),
        )


def _xgboost_link(objective: str, *, targets: int) -> Link:
    """Return the link; with several targets, each is a label of its own."""
    link = _XGBOOST_LINKS.get(objective, Link.IDENTITY)
    return Link.SIGMOID if link is Link.TWO_CLASSES and targets > 1 else link


def _base_margins(text: str, objective: str, count: int) -> tuple[float, ...]:
    """Return the initial margins of an XGBoost model; the file has them in the units of the output."""
    scores = [float(part) for part in text.strip("[]").split(",")]
    margins = [_as_margin(score, objective) for score in scores]
    return tuple(margins * count if len(margins) == 1 else margins)


def _as_margin(score: float, objective: str) -> float:
    if objective in _LOGISTIC:
        return float(-np.log(1.0 / score - 1.0))
    return float(np.log(score)) if _XGBOOST_LINKS.get(objective) is Link.EXP else score


def _as_columns(predictions: Any, link: Link) -> Scores:
    scores = np.asarray(predictions, np.float32)
    if scores.ndim == 2:
        return scores
    columns: dict[Link, Callable[[], list[Scores]]] = {
        Link.TWO_CLASSES: lambda: [1 - scores, scores],
        Link.HINGE: lambda: [1 - scores, scores],
        Link.TWO_SCORES: lambda: [-scores, scores],
    }
    return np.stack(columns.get(link, lambda: [scores])(), axis=1)


def _reject(path: Path, feature: str, remedy: str) -> NoReturn:
    raise ModelError(f"{path} has {feature}, which cannot be converted: {remedy}")
