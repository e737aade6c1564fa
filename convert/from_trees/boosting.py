"""Read LightGBM models (text) and XGBoost models (JSON or UBJSON).

    the framework loads the file   -> a tree dump in its own words
    one table of nodes             -> `trees.py` writes it as ONNX
    the objective                  -> the link from margins to the answer

Both formats are data, so nothing needs to be trusted. What the trees of a file do and ONNX's cannot (categorical splits, linear
leaves, one tree for several outputs) is refused by name. The boosters inside scikit-learn estimators come through here as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_trees.ensemble import Comparison, Ensemble, Link, TreeTable, graph_of, rounded_down
from convert.from_trees.histogram_trees import histogram_ensemble
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
_LOGISTIC = ("binary:logistic", "reg:logistic")


def read_lightgbm(path: Path) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of a LightGBM text model and its class numbers (none for a regressor).

    Raises:
        ModelError: it cannot be loaded, or a split in it has no counterpart in ONNX.
    """
    ensemble = lightgbm_ensemble(_lightgbm_booster(path), path)
    return graph_of(ensemble), ensemble.labels


def read_xgboost(path: Path) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of an XGBoost model and its class numbers (none for a regressor).

    Raises:
        ModelError: it cannot be loaded, is no tree booster, or a split in it has no counterpart in ONNX.
    """
    ensemble = xgboost_ensemble(_xgboost_booster(path), path)
    return graph_of(ensemble), ensemble.labels


def lightgbm_outputs(path: Path, features: npt.NDArray[Any]) -> Scores:
    """Return what LightGBM itself says, in the form of the graph's output."""
    booster = _lightgbm_booster(path)
    return _as_columns(booster.predict(features), lightgbm_ensemble(booster, path).link)


def xgboost_outputs(path: Path, features: npt.NDArray[Any]) -> Scores:
    """Return what XGBoost itself says, in the form of the graph's output."""
    import xgboost

    booster = _xgboost_booster(path)
    ensemble = xgboost_ensemble(booster, path)
    if ensemble.link is Link.SOFTMAX:
        booster.set_param({"objective": "multi:softprob"})  # softmax would say only which class is the largest
    return _as_columns(booster.predict(xgboost.DMatrix(features), validate_features=False), ensemble.link)


def ensemble_of_estimator(estimator: Any, path: Path) -> Ensemble | None:
    """Return the trees of a fitted estimator that boosts them, or nothing where skl2onnx writes it."""
    if type(estimator).__name__ in ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"):
        return histogram_ensemble(estimator, path)
    family = type(estimator).__module__.partition(".")[0]
    if family == "lightgbm":
        return lightgbm_ensemble(estimator.booster_, path)
    if family == "xgboost":
        booster = estimator.get_booster()
        stopped = getattr(estimator, "early_stopping_rounds", None) is not None
        return xgboost_ensemble(booster[: estimator.best_iteration + 1] if stopped else booster, path)
    return None


def lightgbm_ensemble(booster: Any, path: Path) -> Ensemble:
    """Return the trees of a LightGBM booster."""
    dump = booster.dump_model()
    per_iteration = int(dump["num_tree_per_iteration"])
    roots = [one["tree_structure"] for one in dump["tree_info"]]
    scale = per_iteration / len(roots) if dump.get("average_output") and roots else 1.0  # a random forest votes
    table = TreeTable(Comparison.AT_MOST)
    for tree, root in enumerate(roots):
        for number, node in _numbered(root):
            if "leaf_value" in node:
                if "leaf_coeff" in node:
                    _refuse(path, "linear trees (linear_tree=true)", "train it with linear_tree=false")
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
    )


def xgboost_ensemble(booster: Any, path: Path) -> Ensemble:
    """Return the trees of an XGBoost booster."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    boosting = learner["gradient_booster"]
    if boosting["name"] not in ("gbtree", "dart"):
        _refuse(path, f"no trees (booster {boosting['name']})", "train it with booster=gbtree")
    model = boosting.get("gbtree", boosting)["model"]
    drops = boosting.get("weight_drop") or [1.0] * len(model["trees"])
    table = TreeTable(Comparison.BELOW)
    for tree, (one, margin, drop) in enumerate(zip(model["trees"], model["tree_info"], drops, strict=True)):
        _xgboost_tree(table, tree, one, int(margin), float(drop), path)
    objective, numbers = learner["objective"]["name"], learner["learner_model_param"]
    margins = max(int(numbers["num_class"]), int(numbers["num_target"]), 1)
    return Ensemble(
        trees=table,
        feature_count=int(numbers["num_feature"]),
        base_margins=_base_margins(numbers["base_score"], objective, margins),
        link=_XGBOOST_LINKS.get(objective, Link.IDENTITY),
    )


def _lightgbm_booster(path: Path) -> Any:
    import lightgbm

    lightgbm.register_logger(_Quiet())
    try:
        return lightgbm.Booster(model_file=str(path), params={"verbose": -1})
    except (lightgbm.basic.LightGBMError, ValueError, KeyError) as wrong:
        raise ModelError(f"{path}: LightGBM cannot load this model: {first_line(wrong)}") from wrong


def _xgboost_booster(path: Path) -> Any:
    import xgboost

    try:
        with xgboost.config_context(verbosity=0):
            booster = xgboost.Booster()
            booster.load_model(bytearray(path.read_bytes()))
    except (xgboost.core.XGBoostError, ValueError) as wrong:
        raise ModelError(f"{path}: XGBoost cannot load this model: {first_line(wrong)}") from wrong
    return booster


class _Quiet:
    """LightGBM speaks on the standard output, where results go."""

    def info(self, _message: str) -> None:
        """Say nothing."""

    def warning(self, _message: str) -> None:
        """Say nothing."""


def _numbered(root: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the nodes of a tree, root first, each with its number; a split learns the numbers of its branches."""
    waiting, count = [(0, root)], 1
    while waiting:
        number, node = waiting.pop()
        if "left_child" in node:
            node["left"], node["right"] = count, count + 1
            waiting += [(count, node["left_child"]), (count + 1, node["right_child"])]
            count += 2
        yield number, node


def _lightgbm_split(table: TreeTable, tree: int, number: int, node: dict[str, Any], path: Path) -> None:
    if node["decision_type"] != "<=":
        _refuse(path, f"a categorical split (feature {node['split_feature']})", "encode categories as numbers before training")
    if node["missing_type"] == "Zero":
        _refuse(path, "splits that take zero for missing", "train it with zero_as_missing=false")
    threshold = float(node["threshold"])
    # Unless it was trained with missing values, LightGBM takes 0 for one.
    missing_left = bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0
    table.split(
        tree,
        number,
        feature=int(node["split_feature"]),
        threshold=rounded_down(threshold),
        left=node["left"],
        right=node["right"],
        missing_left=missing_left,
    )


def _lightgbm_link(objective: str) -> tuple[Link, float]:
    name, *words = objective.split() or [""]
    settings = dict(word.split(":", 1) for word in words if ":" in word)
    if "sqrt" in words:
        return Link.SIGNED_SQUARE, 1.0
    return _LIGHTGBM_LINKS.get(name, Link.IDENTITY), float(settings.get("sigmoid", 1.0))


def _xgboost_tree(table: TreeTable, tree: int, one: dict[str, Any], margin: int, drop: float, path: Path) -> None:
    if int(one["tree_param"]["size_leaf_vector"]) > 1:
        _refuse(path, "trees with several outputs each", "train it with multi_strategy=one_output_per_tree")
    if any(one["split_type"]):
        _refuse(path, "categorical splits", "encode categories as numbers before training")
    for number, (left, right) in enumerate(zip(one["left_children"], one["right_children"], strict=True)):
        value = float(one["split_conditions"][number])
        if left < 0:
            table.leaf(tree, number, margin=margin, weight=value * drop)
            continue
        table.split(
            tree,
            number,
            feature=int(one["split_indices"][number]),
            threshold=value,
            left=int(left),
            right=int(right),
            missing_left=bool(one["default_left"][number]),
        )


def _base_margins(text: str, objective: str, count: int) -> tuple[float, ...]:
    """Return what XGBoost's margins start from; the file has it in the units of the answer."""
    scores = [float(part) for part in text.strip("[]").split(",")]
    margins = [_as_margin(score, objective) for score in scores]
    return tuple(margins * count if len(margins) == 1 else margins)


def _as_margin(score: float, objective: str) -> float:
    if objective in _LOGISTIC:
        return float(-np.log(1.0 / score - 1.0))
    return float(np.log(score)) if _XGBOOST_LINKS.get(objective) is Link.EXP else score


def _as_columns(answer: Any, link: Link) -> Scores:
    found = np.asarray(answer, np.float32)
    if found.ndim == 2:
        return found
    columns: dict[Link, Callable[[], list[Scores]]] = {
        Link.TWO_CLASSES: lambda: [1 - found, found],
        Link.HINGE: lambda: [1 - found, found],
        Link.TWO_SCORES: lambda: [-found, found],
    }
    return np.stack(columns.get(link, lambda: [found])(), axis=1)


def _refuse(path: Path, what: str, remedy: str) -> NoReturn:
    raise ModelError(f"{path} has {what}, which this reader does not know: {remedy}")
