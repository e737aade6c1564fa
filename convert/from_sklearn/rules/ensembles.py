"""Rules for classifiers that combine others: one per class or per pair of classes, bags, stacks, votes and chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules.classifiers import binary_score, labels, mean, normalized, two_columns, votes


def _one_vs_rest_probabilities(network: Network, classifier: Any, table: Table) -> ir.Value:
    columns = [network.columns(network.probabilities(part, table), [1]) for part in classifier.estimators_]
    scores = two_columns(network, columns[0]) if len(columns) == 1 else network.joined(columns)
    return scores if classifier.multilabel_ else normalized(network, scores)


def _one_vs_rest_decisions(network: Network, classifier: Any, table: Table) -> ir.Value:
    return network.joined([network.decisions(part, table) for part in classifier.estimators_])


def _one_vs_one_decisions(network: Network, classifier: Any, table: Table) -> ir.Value:
    """Add the votes of the pairs and their confidences, which break ties."""
    count = len(classifier.classes_)
    pairs = [(first, second) for first in range(count) for second in range(first + 1, count)]
    tables = [table] * len(pairs)
    if classifier.pairwise_indices_ is not None:
        network.reject("OneVsOneClassifier of a precomputed kernel has no input of features")
    members = list(zip(classifier.estimators_, tables, strict=True))
    second = network.joined([labels(network, part, rows) for part, rows in members])
    confidences = network.joined([binary_score(network, part, rows) for part, rows in members])
    signs, seconds, firsts = (np.zeros((len(pairs), count)) for _ in range(3))
    for row, (low, high) in enumerate(pairs):
        signs[row, low], signs[row, high] = -1.0, 1.0
        firsts[row, low] = seconds[row, high] = 1.0
    won = network.node("Cast", second, to=int(ir.DataType.FLOAT))
    votes_for = network.node(
        "Add",
        network.node("MatMul", won, network.floats(seconds)),
        network.node("MatMul", network.node("Sub", network.floats(1.0), won), network.floats(firsts)),
    )
    total = network.node("MatMul", confidences, network.floats(signs))
    spread = network.node("Add", network.node("Abs", total), network.floats(1.0))
    ties = network.node("Div", total, network.node("Mul", spread, network.floats(3.0)))
    scores = network.node("Add", votes_for, ties)
    return network.columns(scores, [1]) if count == 2 else scores


def _bagging_probabilities(network: Network, bagging: Any, table: Table) -> ir.Value:
    count, parts = len(bagging.classes_), []
    for part, features in zip(bagging.estimators_, bagging.estimators_features_, strict=True):
        rows = _some_features(network, bagging, features, table)
        scores = network.probabilities(part, rows) if hasattr(part, "predict_proba") else votes(network, part, rows)
        if len(part.classes_) < count:  # its samples had only some of the classes
            scores = network.node("MatMul", scores, network.floats(np.eye(count)[np.asarray(part.classes_, int)]))
        parts.append(scores)
    return mean(network, parts)


def _bagging_decisions(network: Network, bagging: Any, table: Table) -> ir.Value:
    members = zip(bagging.estimators_, bagging.estimators_features_, strict=True)
    return mean(
        network, [network.decisions(part, _some_features(network, bagging, features, table)) for part, features in members]
    )


def _some_features(network: Network, bagging: Any, features: Any, table: Table) -> Table:
    columns = [int(column) for column in features]
    whole = columns == list(range(int(getattr(bagging, "n_features_in_", len(columns)))))
    return table if whole else network.selected(table, columns)


def stacked(network: Network, stacking: Any, table: Table) -> Table:
    """Return what the final estimator of a stacking estimator takes."""
    columns = []
    for part, method in zip(stacking.estimators_, stacking.stack_method_, strict=True):
        if method == "predict_proba":
            scores = network.probabilities(part, table)
            two = len(stacking.classes_) == 2
            columns.append(network.columns(scores, [1]) if two else scores)
        elif method == "decision_function":
            columns.append(network.decisions(part, table))
        elif hasattr(part, "classes_"):
            columns.append(network.node("Cast", labels(network, part, table), to=int(ir.DataType.FLOAT)))
        else:
            columns.append(network.values(part, table))
    return Table(network.joined([*columns, network.numbers(table)] if stacking.passthrough else columns))


def _stacking_probabilities(network: Network, stacking: Any, table: Table) -> ir.Value:
    return network.probabilities(stacking.final_estimator_, stacked(network, stacking, table))


def _stacking_decisions(network: Network, stacking: Any, table: Table) -> ir.Value:
    return network.decisions(stacking.final_estimator_, stacked(network, stacking, table))


def _voting_probabilities(network: Network, voting: Any, table: Table) -> ir.Value:
    """Return the mean of the members' probabilities, or of their votes."""
    answer = votes if voting.voting == "hard" else _member_probabilities
    return mean(network, [answer(network, part, table) for part in voting.estimators_], voting._weights_not_none)


def _member_probabilities(network: Network, part: Any, table: Table) -> ir.Value:
    return network.probabilities(part, table)


def _chain_probabilities(network: Network, chain: Any, table: Table) -> ir.Value:
    """Give each classifier the features and the answers of those before it; return the probability of each label."""
    rows = network.numbers(table)
    given: list[ir.Value] = []
    found: list[ir.Value] = []
    for part in chain.estimators_:
        extended = Table(network.joined([rows, *given]))
        if list(part.classes_) != [0, 1]:
            network.reject("ClassifierChain must predict labels of 0 and 1")
        found.append(network.columns(network.probabilities(part, extended), [1]))
        if chain.chain_method_ == "predict_proba":
            given.append(found[-1])
        elif chain.chain_method_ == "decision_function":
            given.append(network.decisions(part, extended))
        else:
            given.append(network.node("Cast", labels(network, part, extended), to=int(ir.DataType.FLOAT)))
    return network.joined([found[place] for place in np.argsort(chain.order_)])


PROBABILITIES = {
    "OneVsRestClassifier": _one_vs_rest_probabilities,
    "BaggingClassifier": _bagging_probabilities,
    "StackingClassifier": _stacking_probabilities,
    "VotingClassifier": _voting_probabilities,
    "ClassifierChain": _chain_probabilities,
}
DECISIONS = {
    "OneVsRestClassifier": _one_vs_rest_decisions,
    "OneVsOneClassifier": _one_vs_one_decisions,
    "BaggingClassifier": _bagging_decisions,
    "StackingClassifier": _stacking_decisions,
}
