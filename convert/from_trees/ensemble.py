"""Emit an ensemble of decision trees as ONNX: one TreeEnsembleRegressor, followed by the link function as separate nodes.

Converters that choose ONNX's tree classifier or regressor by the objective's name silently convert rare objectives incorrectly
(one-versus-all, raw margins, hinge, ranking). Here the trees only sum margins, and `Link` is the function from margins to the
output. Missing values take the same branch as in the framework.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.graph.emit import BATCH_AXIS, Emitter, graph_input

ML_DOMAIN = "ai.onnx.ml"
ML_OPSET = 3
FEATURES = "features"

_LARGEST_ZERO = 1e-35
"""LightGBM's kZeroThreshold: a number up to this size is a zero."""


class Comparison(enum.StrEnum):
    """Condition under which a value takes the left branch."""

    AT_MOST = "BRANCH_LEQ"
    BELOW = "BRANCH_LT"


class Link(enum.Enum):
    """Function from the summed margins to the model's output."""

    IDENTITY = enum.auto()
    EXP = enum.auto()
    LOG_1P_EXP = enum.auto()
    SIGNED_SQUARE = enum.auto()
    SIGMOID = enum.auto()
    """Sigmoid of each margin, for a value between 0 and 1 that is not a class probability."""
    TWO_CLASSES = enum.auto()
    """Sigmoid of the single margin, as one probability for each of two classes."""
    TWO_SCORES = enum.auto()
    """The single margin, as one score for each of two classes."""
    HINGE = enum.auto()
    """0 or 1 by the margin's sign, as one score for each of two classes."""
    ONE_VERSUS_ALL = enum.auto()
    SOFTMAX = enum.auto()

    @property
    def output(self) -> str:
        """Name of the graph's output."""
        if self in (Link.TWO_SCORES, Link.HINGE):
            return "scores"
        return "probabilities" if self.classes(1) else "value"

    def classes(self, margins: int) -> int:
        """Return the number of classes for a number of margins; 0 for a regressor."""
        if self in (Link.TWO_CLASSES, Link.TWO_SCORES, Link.HINGE):
            return 2
        return margins if self in (Link.SOFTMAX, Link.ONE_VERSUS_ALL) else 0


@dataclass(slots=True)
class TreeTable:
    """The nodes of all trees, as the attributes of ONNX's tree operators."""

    comparison: Comparison
    nodes: dict[str, list[Any]] = field(default_factory=dict)
    leaves: dict[str, list[Any]] = field(default_factory=dict)

    def split(self, tree: int, node: int, *, feature: int, threshold: float, left: int, right: int, missing_left: bool) -> None:
        """Add a node that compares a feature with a threshold."""
        self._add(
            {
                "treeids": tree,
                "nodeids": node,
                "modes": str(self.comparison),
                "featureids": feature,
                "values": float(threshold),
                "truenodeids": left,
                "falsenodeids": right,
                "missing_value_tracks_true": int(missing_left),
            }
        )

    def leaf(self, tree: int, node: int, *, margin: int, weight: float) -> None:
        """Add a leaf that adds `weight` to a margin."""
        self._add(
            {
                "treeids": tree,
                "nodeids": node,
                "modes": "LEAF",
                "featureids": 0,
                "values": 0.0,
                "truenodeids": 0,
                "falsenodeids": 0,
                "missing_value_tracks_true": 0,
            }
        )
        self.add_weight(tree, node, margin=margin, weight=weight)

    def add_weight(self, tree: int, node: int, *, margin: int, weight: float) -> None:
        """Let a leaf add `weight` to a further margin."""
        for name, value in (("treeids", tree), ("nodeids", node), ("ids", margin), ("weights", float(weight))):
            self.leaves.setdefault(f"target_{name}", []).append(value)

    def _add(self, row: dict[str, Any]) -> None:
        for name, cell in row.items():
            self.nodes.setdefault(f"nodes_{name}", []).append(cell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """A boosted model: trees that add to margins, and a link function."""

    trees: TreeTable
    feature_count: int
    base_margins: tuple[float, ...]
    """Initial value of each margin."""
    link: Link
    slope: float = 1.0
    """Factor of the margins before the link function."""
    missing_number: float | None = None
    """A number that stands for a missing value, besides NaN."""
    zero_is_missing: frozenset[int] = frozenset()
    """Features in which a zero is a missing value."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class numbers as both frameworks assign them."""
        return tuple(str(number) for number in range(self.link.classes(len(self.base_margins))))


def rounded_down(threshold: float) -> float:
    """Return the largest float32 that is at most `threshold`, so that `x <= threshold` is unchanged for every float32 x."""
    with np.errstate(over="ignore"):  # thresholds above the largest float32 become infinity, which is right
        nearest = np.float32(threshold)
        return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


def graph_of(ensemble: Ensemble, *, nearest: bool = False) -> ir.Model:
    """Return the graph of an ensemble, from `features` float32[N, features] to one float32 output [N, scores].

    Thresholds are rounded down, which is exact for every float32 feature. For features in float64, `nearest` rounds thresholds as
    the features themselves are rounded, so that a value on a split stays on its side.
    """
    emit = Emitter()
    features = graph_input(FEATURES, ir.DataType.FLOAT, (None, ensemble.feature_count))
    result = outputs_of(emit, ensemble, margins_of(emit, ensemble, features, nearest=nearest))
    result.name = ensemble.link.output
    result.type = ir.TensorType(ir.DataType.FLOAT)
    count = len(ensemble.base_margins)
    result.shape = ir.Shape([BATCH_AXIS, ensemble.link.classes(count) or count])
    model = emit.model([features], [result])
    model.opset_imports[ML_DOMAIN] = ML_OPSET
    return model


def outputs_of(emit: Emitter, ensemble: Ensemble, margins: ir.Value) -> ir.Value:
    """Emit the link function: margins to outputs."""
    if ensemble.slope != 1.0:
        margins = emit.node("Mul", [margins, emit.floats("slope", ensemble.slope)], where="trees")
    return _LINKS[ensemble.link](emit, margins)


def margins_of(emit: Emitter, ensemble: Ensemble, features: ir.Value, *, nearest: bool = False) -> ir.Value:
    """Emit the sums of the trees, [N, margins]; `nearest` as for `graph_of`."""
    rounded = float if nearest else rounded_down
    count = len(ensemble.base_margins)
    if ensemble.trees.nodes:
        margins = emit.node(
            "TreeEnsembleRegressor",
            [_with_nan(emit, features, ensemble)],
            where="trees",
            domain=ML_DOMAIN,
            n_targets=count,
            aggregate_function="SUM",
            post_transform="NONE",
            base_values=[float(np.float32(margin)) for margin in ensemble.base_margins],
            **_rounded(ensemble.trees.nodes, rounded),
            **ensemble.trees.leaves,
        )
    else:  # a model without trees returns a constant
        zeros = emit.node("MatMul", [features, emit.floats("none", np.zeros((ensemble.feature_count, count)))], where="trees")
        margins = emit.node("Add", [zeros, emit.floats("base", ensemble.base_margins)], where="trees")
    return margins


def _with_nan(emit: Emitter, features: ir.Value, ensemble: Ensemble) -> ir.Value:
    """Emit the features with NaN in place of the numbers that stand for a missing value."""
    if ensemble.missing_number is not None:
        missing = emit.node("Equal", [features, emit.floats("missing", ensemble.missing_number)], where="missing")
    elif ensemble.zero_is_missing:
        largest = [_LARGEST_ZERO if place in ensemble.zero_is_missing else -1.0 for place in range(ensemble.feature_count)]
        sizes = emit.node("Abs", [features], where="missing")
        missing = emit.node("LessOrEqual", [sizes, emit.floats("largest_zero", largest)], where="missing")
    else:
        return features
    return emit.node("Where", [missing, emit.floats("nan", np.nan), features], where="missing")


def _rounded(nodes: dict[str, list[Any]], rounded: Callable[[float], float]) -> dict[str, list[Any]]:
    with np.errstate(over="ignore"):  # as in `rounded_down`
        return nodes | {"nodes_values": [float(np.float32(rounded(value))) for value in nodes["nodes_values"]]}


def _unary(operator: str) -> Callable[[Emitter, ir.Value], ir.Value]:
    return lambda emit, margins: emit.node(operator, [margins], where="link")


def _signed_square(emit: Emitter, margins: ir.Value) -> ir.Value:
    magnitude = emit.node("Abs", [margins], where="link")
    return emit.node("Mul", [margins, magnitude], where="link")


def _two_classes(emit: Emitter, margins: ir.Value) -> ir.Value:
    """Emit the sigmoid of both signs of the margin: 1 - p would round small probabilities to 0."""
    return emit.node("Sigmoid", [_two_scores(emit, margins)], where="link")


def _two_scores(emit: Emitter, margins: ir.Value) -> ir.Value:
    negative = emit.node("Neg", [margins], where="link")
    return emit.node("Concat", [negative, margins], where="link", axis=1)


def _hinge(emit: Emitter, margins: ir.Value) -> ir.Value:
    is_positive = emit.node("Greater", [margins, emit.floats("zero", 0.0)], where="link")
    second = emit.node("Cast", [is_positive], where="link", to=int(ir.DataType.FLOAT))
    first = emit.node("Sub", [emit.floats("one", 1.0), second], where="link")
    return emit.node("Concat", [first, second], where="link", axis=1)


_LINKS: dict[Link, Callable[[Emitter, ir.Value], ir.Value]] = {
    Link.IDENTITY: lambda _emit, margins: margins,
    Link.EXP: _unary("Exp"),
    Link.LOG_1P_EXP: _unary("Softplus"),
    Link.SIGNED_SQUARE: _signed_square,
    Link.SIGMOID: _unary("Sigmoid"),
    Link.TWO_CLASSES: _two_classes,
    Link.TWO_SCORES: _two_scores,
    Link.HINGE: _hinge,
    Link.ONE_VERSUS_ALL: _unary("Sigmoid"),
    Link.SOFTMAX: lambda emit, margins: emit.node("Softmax", [margins], where="link", axis=1),
}
