"""Write an ensemble of decision trees as ONNX: one TreeEnsembleRegressor, and the link function behind it as plain nodes.

Converters that pick ONNX's classifier or regressor by the name of an objective get the rarer objectives wrong without a word
(one-versus-all, raw margins, hinge, ranking). Here trees only add up margins, and what turns margins into the model's answer is
said once, in `Link`. Missing values take the branch that the framework would have taken.
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


class Comparison(enum.StrEnum):
    """When a value takes the left branch."""

    AT_MOST = "BRANCH_LEQ"
    BELOW = "BRANCH_LT"


class Link(enum.Enum):
    """What turns the summed margins into the model's answer."""

    IDENTITY = enum.auto()
    EXP = enum.auto()
    LOG_1P_EXP = enum.auto()
    SIGNED_SQUARE = enum.auto()
    SIGMOID = enum.auto()
    """Of a value between 0 and 1 that is no probability of a class."""
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
        """How the graph's output is called."""
        if self in (Link.TWO_SCORES, Link.HINGE):
            return "scores"
        return "probabilities" if self.classes(1) else "value"

    def classes(self, margins: int) -> int:
        """Return how many classes that many margins tell apart; none where the answer is a number."""
        if self in (Link.TWO_CLASSES, Link.TWO_SCORES, Link.HINGE):
            return 2
        return margins if self in (Link.SOFTMAX, Link.ONE_VERSUS_ALL) else 0


@dataclass(slots=True)
class TreeTable:
    """The nodes of all trees as the columns that ONNX wants."""

    comparison: Comparison
    nodes: dict[str, list[Any]] = field(default_factory=dict)
    leaves: dict[str, list[Any]] = field(default_factory=dict)

    def split(self, tree: int, node: int, *, feature: int, threshold: float, left: int, right: int, missing_left: bool) -> None:
        """Add a node that compares a feature."""
        self._add(tree, node, str(self.comparison), feature, threshold, left, right, missing_left)

    def leaf(self, tree: int, node: int, *, margin: int, weight: float) -> None:
        """Add a leaf that adds `weight` to a margin."""
        self._add(tree, node, "LEAF", 0, 0.0, 0, 0, False)
        for name, value in (("treeids", tree), ("nodeids", node), ("ids", margin), ("weights", float(weight))):
            self.leaves.setdefault(f"target_{name}", []).append(value)

    def _add(self, tree: int, node: int, mode: str, feature: int, value: float, left: int, right: int, missing: bool) -> None:
        row = {
            "treeids": tree,
            "nodeids": node,
            "modes": mode,
            "featureids": feature,
            "values": float(value),
            "truenodeids": left,
            "falsenodeids": right,
            "missing_value_tracks_true": int(missing),
        }
        for name, cell in row.items():
            self.nodes.setdefault(f"nodes_{name}", []).append(cell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """A boosted model: trees that add to margins, and a link."""

    trees: TreeTable
    feature_count: int
    base_margins: tuple[float, ...]
    """What the margins start from; their number is the number of margins."""
    link: Link
    slope: float = 1.0
    """What the margins are multiplied by before the link."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes as both frameworks number them."""
        return tuple(str(place) for place in range(self.link.classes(len(self.base_margins))))


def rounded_down(threshold: float) -> float:
    """Return the largest float32 that is not above `threshold`: `x <= threshold` stays the same for every float32 x."""
    with np.errstate(over="ignore"):  # beyond the largest float32 lies infinity, which is right
        near = np.float32(threshold)
        return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))


def graph_of(ensemble: Ensemble) -> ir.Model:
    """Return the graph of an ensemble: `features` float32[N, features] to one output."""
    emit = Emitter()
    features = graph_input(FEATURES, ir.DataType.FLOAT, (None, ensemble.feature_count))
    margins = _margins(emit, features, ensemble)
    result = _LINKS[ensemble.link](emit, margins)
    result.name = ensemble.link.output
    result.type = ir.TensorType(ir.DataType.FLOAT)
    count = len(ensemble.base_margins)
    result.shape = ir.Shape([BATCH_AXIS, ensemble.link.classes(count) or count])
    model = emit.model([features], [result])
    model.opset_imports[ML_DOMAIN] = ML_OPSET
    return model


def _margins(emit: Emitter, features: ir.Value, ensemble: Ensemble) -> ir.Value:
    count = len(ensemble.base_margins)
    if ensemble.trees.nodes:
        margins = emit.node(
            "TreeEnsembleRegressor",
            [features],
            where="trees",
            domain=ML_DOMAIN,
            n_targets=count,
            aggregate_function="SUM",
            post_transform="NONE",
            base_values=[float(np.float32(margin)) for margin in ensemble.base_margins],
            **ensemble.trees.nodes,
            **ensemble.trees.leaves,
        )
    else:  # a model without a single tree says the same to everybody
        nothing = emit.node("MatMul", [features, emit.floats("none", np.zeros((ensemble.feature_count, count)))], where="trees")
        margins = emit.node("Add", [nothing, emit.floats("base", ensemble.base_margins)], where="trees")
    if ensemble.slope != 1.0:
        margins = emit.node("Mul", [margins, emit.floats("slope", ensemble.slope)], where="trees")
    return margins


def _unary(operator: str) -> Callable[[Emitter, ir.Value], ir.Value]:
    return lambda emit, margins: emit.node(operator, [margins], where="link")


def _signed_square(emit: Emitter, margins: ir.Value) -> ir.Value:
    size = emit.node("Abs", [margins], where="link")
    return emit.node("Mul", [margins, size], where="link")


def _two_classes(emit: Emitter, margins: ir.Value) -> ir.Value:
    """Take the sigmoid of both signs: 1 - p would lose the small probabilities."""
    return emit.node("Sigmoid", [_two_scores(emit, margins)], where="link")


def _two_scores(emit: Emitter, margins: ir.Value) -> ir.Value:
    other = emit.node("Neg", [margins], where="link")
    return emit.node("Concat", [other, margins], where="link", axis=1)


def _hinge(emit: Emitter, margins: ir.Value) -> ir.Value:
    above = emit.node("Greater", [margins, emit.floats("zero", 0.0)], where="link")
    one = emit.node("Cast", [above], where="link", to=int(ir.DataType.FLOAT))
    other = emit.node("Sub", [emit.floats("one", 1.0), one], where="link")
    return emit.node("Concat", [other, one], where="link", axis=1)


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
