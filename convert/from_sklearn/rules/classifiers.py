"""Rules for classifiers: probabilities and decision values, and the label that follows from them.

A label is the index of its class, [N]. Members of an ensemble were trained on such indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules import skl2onnx
from convert.from_trees.boosting import ensemble_of_estimator
from convert.from_trees.ensemble import Link, margins_of, outputs_of


def labels(network: Network, classifier: Any, table: Table) -> ir.Value:
    """Return the index of the class that `predict` returns, [N, 1]."""
    last = last_step(classifier)
    if type(last).__name__ == "OneVsRestClassifier":
        with network.inside(classifier):
            scores = _one_per_class(network, last, before(network, classifier, table))
    elif _decides(classifier):
        scores = network.decisions(classifier, table)
        if len(classifier.classes_) == 2:
            above = network.node("Greater", scores, network.floats(threshold(last)))
            return network.node("Cast", above, to=int(ir.DataType.INT64))
        if type(last).__name__ in ("SVC", "NuSVC") and not last.break_ties:  # the first of the classes with the most votes
            scores = network.node("Round", scores)
    else:
        scores = network.probabilities(classifier, table)
    return network.node("ArgMax", scores, axis=1, keepdims=1)


def votes(network: Network, classifier: Any, table: Table) -> ir.Value:
    """Return 1 for the class that `predict` returns and 0 for the others, [N, classes]."""
    return _one_hot(network, labels(network, classifier, table), len(classifier.classes_))


def threshold(classifier: Any) -> float:
    """Return the decision value above which a classifier of two classes returns the second one."""
    if type(classifier).__name__ == "OneVsOneClassifier" and not hasattr(classifier.estimators_[0], "decision_function"):
        return 0.5
    return 0.0


def last_step(estimator: Any) -> Any:
    """Return the last step of a pipeline, or of the best estimator of a search."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            return estimator


def before(network: Network, estimator: Any, table: Table) -> Table:
    """Return what the last step of a pipeline takes."""
    if hasattr(estimator, "best_estimator_"):
        return before(network, estimator.best_estimator_, table)
    if not hasattr(estimator, "steps"):
        return table
    for _, step in estimator.steps[:-1]:
        table = table if step in (None, "passthrough") else network.transformed(step, table)
    return before(network, estimator.steps[-1][1], table)


def mean(network: Network, parts: list[ir.Value], weights: Any = None) -> ir.Value:
    """Return the mean of the answers of several members, by their weights."""
    shares = np.ones(len(parts)) if weights is None else np.asarray(weights, np.float64)
    total = None
    for part, share in zip(parts, shares / shares.sum(), strict=True):
        scaled = network.node("Mul", part, network.floats(share))
        total = scaled if total is None else network.node("Add", total, scaled)
    assert total is not None
    return total


def two_columns(network: Network, second: ir.Value) -> ir.Value:
    """Return the probabilities of two classes from those of the second one, [N, 1]."""
    return network.joined([network.node("Sub", network.floats(1.0), second), second])


def normalized(network: Network, scores: ir.Value, *, otherwise: float = 0.0) -> ir.Value:
    """Divide rows by their sum; rows of zeros become `otherwise`."""
    total = network.node("ReduceSum", scores, network.integers([1]), keepdims=1)
    empty = network.node("Equal", total, network.floats(0.0))
    divided = network.node("Div", scores, network.node("Where", empty, network.floats(1.0), total))
    return network.node("Where", empty, network.floats(otherwise), divided)


def binary_score(network: Network, part: Any, table: Table) -> ir.Value:
    """Return the score of a member that tells two classes apart, [N, 1]."""
    from sklearn.base import is_regressor

    if is_regressor(part):
        return network.values(part, table)
    if hasattr(part, "decision_function"):
        return network.decisions(part, table)
    return network.columns(network.probabilities(part, table), [1])


def _decides(classifier: Any) -> bool:
    """Return True if `predict` follows the decision values, which it does wherever there are some."""
    return hasattr(classifier, "decision_function")


def _one_hot(network: Network, indices: ir.Value, count: int) -> ir.Value:
    equal = network.node("Equal", indices, network.integers([list(range(count))]))
    return network.node("Cast", equal, to=int(ir.DataType.FLOAT))


def _one_per_class(network: Network, classifier: Any, table: Table) -> ir.Value:
    scores = [binary_score(network, part, table) for part in classifier.estimators_]
    if len(scores) > 1:
        return network.joined(scores)
    limit = network.floats(0.0 if hasattr(classifier.estimators_[0], "decision_function") else 0.5)
    above = network.node("Sub", scores[0], limit)
    return network.joined([network.node("Neg", above), above])


def _any_probabilities(network: Network, classifier: Any, table: Table) -> ir.Value:
    ensemble = ensemble_of_estimator(classifier, network.path)
    if ensemble is None:
        return skl2onnx.probabilities(network, classifier, table)
    margins = margins_of(network.emit, ensemble, network.numbers(table), nearest=network.nearest)
    if ensemble.link is Link.TWO_SCORES:  # XGBoost takes the raw margin for the probability of the second class
        return two_columns(network, margins)
    scores = outputs_of(network.emit, ensemble, margins)
    one_column = len(ensemble.base_margins) == 1 and not ensemble.link.classes(1)
    return two_columns(network, scores) if one_column else scores


def _any_decisions(network: Network, classifier: Any, table: Table) -> ir.Value:
    if hasattr(classifier, "coef_") and hasattr(classifier, "intercept_") and type(classifier).__name__ not in ("SVC", "NuSVC"):
        weights = np.atleast_2d(np.asarray(classifier.coef_, np.float64)).T
        offset = np.broadcast_to(np.asarray(classifier.intercept_, np.float64), (weights.shape[1],))
        return network.node("Gemm", network.numbers(table), network.floats(weights), network.floats(offset))
    ensemble = ensemble_of_estimator(classifier, network.path)
    if ensemble is not None:
        return margins_of(network.emit, ensemble, network.numbers(table), nearest=network.nearest)
    scores = skl2onnx.raw_scores(network, classifier, table)
    if len(classifier.classes_) > 2:
        return scores
    return network.columns(scores, [1])


def _pipeline_probabilities(network: Network, pipeline: Any, table: Table) -> ir.Value:
    return network.probabilities(last_step(pipeline), before(network, pipeline, table))


def _pipeline_decisions(network: Network, pipeline: Any, table: Table) -> ir.Value:
    return network.decisions(last_step(pipeline), before(network, pipeline, table))


def perceptron(network: Network, estimator: Any, table: Table) -> ir.Value:
    """Return the last layer of a multilayer perceptron, before its activation."""
    value = network.numbers(table)
    for place, (weights, offset) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        value = network.node("Gemm", value, network.floats(weights), network.floats(offset))
        operator = _ACTIVATIONS[estimator.activation]
        if place < len(estimator.coefs_) - 1 and operator:
            value = network.node(operator, value)
    return value


def _perceptron_probabilities(network: Network, classifier: Any, table: Table) -> ir.Value:
    value = perceptron(network, classifier, table)
    if classifier.out_activation_ == "softmax":
        return network.node("Softmax", value, axis=1)
    several = classifier._label_binarizer.y_type_ == "multilabel-indicator"
    return network.node("Sigmoid", value if several else network.joined([network.node("Neg", value), value]))


def _linear_discriminant(network: Network, analysis: Any, table: Table) -> ir.Value:
    scores = _any_decisions(network, analysis, table)
    if len(analysis.classes_) > 2:
        return network.node("Softmax", scores, axis=1)
    return network.node("Sigmoid", network.joined([network.node("Neg", scores), scores]))


def _quadratic_posteriors(network: Network, analysis: Any, table: Table) -> ir.Value:
    """Return the logarithms of the posteriors up to a constant of the sample, [N, classes]."""
    columns = []
    rows = network.numbers(table)
    parts = zip(analysis.rotations_, analysis.scalings_, analysis.means_, analysis.priors_, strict=True)
    for rotation, scaling, mean, prior in parts:
        centred = network.node("Sub", rows, network.floats([mean]))
        whitened = network.node("MatMul", centred, network.floats(rotation * scaling**-0.5))
        distance = network.node("ReduceSumSquare", whitened, network.integers([1]), keepdims=1)
        constant = np.log(prior) - 0.5 * np.log(scaling).sum()
        columns.append(network.node("Add", network.node("Mul", distance, network.floats(-0.5)), network.floats(float(constant))))
    return network.joined(columns)


def _quadratic_decisions(network: Network, analysis: Any, table: Table) -> ir.Value:
    scores = _quadratic_posteriors(network, analysis, table)
    if len(analysis.classes_) > 2:
        return scores
    return network.node("Sub", network.columns(scores, [1]), network.columns(scores, [0]))


def _quadratic_probabilities(network: Network, analysis: Any, table: Table) -> ir.Value:
    return network.node("Softmax", _quadratic_posteriors(network, analysis, table), axis=1)


def _frozen(network: Network, frozen: Any, table: Table) -> ir.Value:
    return network.probabilities(frozen.estimator, table)


def _frozen_decisions(network: Network, frozen: Any, table: Table) -> ir.Value:
    return network.decisions(frozen.estimator, table)


def _moved_threshold(network: Network, classifier: Any, _table: Table) -> ir.Value:
    network.reject(
        f"{type(classifier).__name__} returns labels by a threshold of its own, not the most probable class: save its "
        "estimator_, and apply the threshold to the probabilities"
    )


_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": ""}
_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")

PROBABILITIES = {
    "": _any_probabilities,
    **dict.fromkeys(("Pipeline", *_SEARCHES), _pipeline_probabilities),
    "LinearDiscriminantAnalysis": _linear_discriminant,
    "QuadraticDiscriminantAnalysis": _quadratic_probabilities,
    "MLPClassifier": _perceptron_probabilities,
    "FrozenEstimator": _frozen,
    "FixedThresholdClassifier": _moved_threshold,
    "TunedThresholdClassifierCV": _moved_threshold,
}
DECISIONS = {
    "": _any_decisions,
    **dict.fromkeys(("Pipeline", *_SEARCHES), _pipeline_decisions),
    "QuadraticDiscriminantAnalysis": _quadratic_decisions,
    "FrozenEstimator": _frozen_decisions,
}
