"""Missing values in scikit-learn's trees: the branch that training chose, which skl2onnx leaves out.

The nodes of skl2onnx's trees have the numbers of scikit-learn's own. So each tree of the graph is found again among the trees
inside the estimator, wherever it is nested (forests, bagging, stacking, pipelines), by its features and children.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

_OPERATORS = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_TRACKS = "nodes_missing_value_tracks_true"

_Signature = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def direct_missing_values(graph: onnx.GraphProto, estimator: Any) -> None:
    """Give the trees of `graph` the branch for missing values that the trees inside `estimator` take."""
    trees: dict[_Signature, deque[Any]] = defaultdict(deque)
    for tree in trees_inside(estimator):
        trees[_signature(tree)].append(tree)
    for node in graph.node:
        if node.op_type in _OPERATORS:
            _direct(node, trees)


def trees_inside(estimator: Any) -> Iterator[Any]:
    """Yield every `tree_` inside an estimator, in the order in which the estimators are listed."""
    seen: set[int] = set()
    waiting = deque([estimator])
    while waiting:
        part = waiting.popleft()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type(None)):
            continue
        seen.add(id(part))
        if hasattr(part, "missing_go_to_left") and hasattr(part, "children_left"):
            yield part
        elif isinstance(part, list | tuple | set):
            waiting.extendleft(reversed(list(part)))
        elif isinstance(part, dict):
            waiting.extendleft(reversed(list(part.values())))
        elif isinstance(part, np.ndarray):
            waiting.extendleft(reversed(part.ravel().tolist()) if part.dtype.hasobject else ())
        elif type(part).__module__.startswith("sklearn."):
            waiting.extendleft(reversed(list(getattr(part, "__dict__", {}).values())))


def _signature(tree: Any) -> _Signature:
    branches = tree.children_left >= 0
    return (
        tuple(np.where(branches, tree.feature, 0).tolist()),
        tuple(np.where(branches, tree.children_left, 0).tolist()),
        tuple(np.where(branches, tree.children_right, 0).tolist()),
    )


def _direct(node: onnx.NodeProto, trees: Mapping[_Signature, deque[Any]]) -> None:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    columns = {
        name: np.array(attributes[f"nodes_{name}"].ints) for name in ("treeids", "featureids", "truenodeids", "falsenodeids")
    }
    tracks = np.zeros(len(columns["treeids"]), np.int64)
    for number in dict.fromkeys(columns["treeids"].tolist()):
        places = np.flatnonzero(columns["treeids"] == number)
        tree = _tree_of(columns, places, trees)
        if tree is not None:
            tracks[places] = np.where(tree.children_left >= 0, tree.missing_go_to_left, 0)
    kept = [attribute for name, attribute in attributes.items() if name != _TRACKS]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(_TRACKS, tracks.tolist())])


def _tree_of(
    columns: Mapping[str, npt.NDArray[np.int64]], places: npt.NDArray[np.int64], trees: Mapping[_Signature, deque[Any]]
) -> Any:
    """Return scikit-learn's tree with the same structure, or None; equal structures come in the order of the estimators."""
    features, left, right = (tuple(columns[name][places].tolist()) for name in ("featureids", "truenodeids", "falsenodeids"))
    same = trees.get((features, left, right))
    if not same:
        return None
    tree = same[0]
    same.rotate(-1)
    return tree
