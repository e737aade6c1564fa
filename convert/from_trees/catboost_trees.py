"""Read CatBoost models (`.cbm`).

CatBoost's own export to ONNX leaves out the link function of some losses (Poisson, Tweedie, one class against the rest) and
refuses trees that are not symmetric. So the trees are read from its JSON form, and ensemble.py emits them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_trees.ensemble import Comparison, Ensemble, Link, TreeTable, graph_of
from edgewright.errors import BadInputError, ModelError, first_line

_LINKS = {
    "Logloss": Link.TWO_CLASSES,
    "CrossEntropy": Link.TWO_CLASSES,
    "MultiClass": Link.SOFTMAX,
    "MultiClassOneVsAll": Link.ONE_VERSUS_ALL,
    "Poisson": Link.EXP,
    "Tweedie": Link.EXP,
    "LogLinQuantile": Link.EXP,
    "MultiLogloss": Link.SIGMOID,
    "MultiCrossEntropy": Link.SIGMOID,
}
_PREDICTIONS = {Link.EXP: "Exponent", Link.IDENTITY: "RawFormulaVal"}
"""CatBoost's name for the outputs of a link; all others are probabilities."""
_MISSING_RIGHT = "AsTrue"
_OTHER_FEATURES = {
    "categorical": "get_cat_feature_indices",
    "text": "get_text_feature_indices",
    "embedding": "get_embedding_feature_indices",
}


def read_catboost(path: Path) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of a CatBoost model and its class labels (empty for a regressor).

    Raises:
        BadInputError: CatBoost is not installed.
        ModelError: the model cannot be loaded, or has features that are not numbers.
    """
    booster = load_catboost(path)
    ensemble = catboost_ensemble(booster, path)
    classes = () if ensemble.link is Link.SIGMOID else tuple(str(label) for label in booster.classes_)
    return graph_of(ensemble), classes


def catboost_outputs(path: Path, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return CatBoost's own predictions in the shape of the graph's output, [samples, outputs]."""
    booster = load_catboost(path)
    kind = _PREDICTIONS.get(catboost_ensemble(booster, path).link, "Probability")
    return np.asarray(booster.predict(features, prediction_type=kind), np.float32).reshape(len(features), -1)


def names_in_catboost(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a CatBoost model; numbers if the training table had none."""
    return tuple(load_catboost(path).feature_names_)


def load_catboost(path: Path) -> Any:
    """Load a CatBoost model.

    Raises:
        BadInputError: CatBoost is not installed.
        ModelError: the model cannot be loaded.
    """
    if "catboost" not in sys.modules and find_spec("catboost") is None:
        raise BadInputError(f"{path} needs CatBoost, which is not installed. Run: pip install 'edgewright[catboost]'")
    import catboost

    booster = catboost.CatBoost()
    try:
        booster.load_model(str(path))
    except catboost.CatBoostError as error:
        raise ModelError(f"{path}: CatBoost cannot load this model: {first_line(error)}") from error
    return booster


def catboost_ensemble(booster: Any, path: Path) -> Ensemble:
    """Return the trees of a CatBoost model.

    Raises:
        ModelError: the model has categorical, text or embedding features.
    """
    _check_features(booster, path)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        booster.save_model(f"{folder}/model.json", format="json")
        stored = json.loads(Path(folder, "model.json").read_text("utf-8"))
    scale, bias = stored["scale_and_bias"]
    margins = tuple(float(value) for value in np.atleast_1d(bias))
    table = TreeTable(Comparison.AT_MOST)
    columns = _Columns(stored["features_info"]["float_features"])
    for number, root in enumerate(_trees(stored, len(margins))):
        for node, part in _numbered(root):
            if "value" in part:
                weights = np.atleast_1d(part["value"]) * scale
                table.leaf(number, node, margin=0, weight=float(weights[0]))
                for margin, weight in enumerate(weights[1:], start=1):
                    table.add_weight(number, node, margin=margin, weight=float(weight))
            else:
                columns.split(table, number, node, part)
    return Ensemble(trees=table, feature_count=len(booster.feature_names_), base_margins=margins, link=_link(stored))


def _check_features(booster: Any, path: Path) -> None:
    for kind, method in _OTHER_FEATURES.items():
        found = [str(booster.feature_names_[place]) for place in getattr(booster, method)()]
        if found:
            raise ModelError(
                f"{path} has {kind} features ({', '.join(found)}), which cannot be converted: "
                "encode them as numbers before training"
            )


def _link(stored: dict[str, Any]) -> Link:
    loss = str(stored["model_info"]["params"]["loss_function"]["type"])
    return _LINKS.get(loss, Link.IDENTITY)


class _Columns:
    """The columns that splits name by their number among those with numbers."""

    def __init__(self, features: list[dict[str, Any]]) -> None:
        self._places = {int(feature["feature_index"]): int(feature["flat_feature_index"]) for feature in features}
        self._right = {int(feature["feature_index"]) for feature in features if feature["nan_value_treatment"] == _MISSING_RIGHT}

    def split(self, table: TreeTable, tree: int, number: int, node: dict[str, Any]) -> None:
        """Add the node: values above the border take the right branch."""
        feature = int(node["split"]["float_feature_index"])
        table.split(
            tree,
            number,
            feature=self._places[feature],
            threshold=float(np.float32(node["split"]["border"])),
            left=node["left_number"],
            right=node["right_number"],
            missing_left=feature not in self._right,
        )


def _trees(stored: dict[str, Any], margins: int) -> Iterator[dict[str, Any]]:
    """Yield the root of every tree; a symmetric one has a split per level, and leaves in the order of binary numbers."""
    yield from stored.get("trees", ())
    for tree in stored.get("oblivious_trees", ()):
        splits = tree.get("splits") or []
        nodes = [{"value": value} for value in np.reshape(tree["leaf_values"], (2 ** len(splits), margins)).tolist()]
        for split in splits:  # the first split tells neighbouring leaves apart
            nodes = [{"split": split, "left": low, "right": high} for low, high in zip(nodes[::2], nodes[1::2], strict=True)]
        yield nodes[0]


def _numbered(root: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered nodes of a tree, root first; the numbers of a split's children are stored in a copy of it."""
    pending, count = [(0, root)], 1
    while pending:
        number, node = pending.pop()
        if "split" in node:
            pending += [(count, node["left"]), (count + 1, node["right"])]
            node = {**node, "left_number": count, "right_number": count + 1}
            count += 2
        yield number, node
