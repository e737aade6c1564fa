"""Rules for outlier detectors: their decision values, [N, 1], which are negative for outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules import skl2onnx
from convert.from_trees.ensemble import margins_of
from convert.from_trees.scikit_trees import isolation_ensemble


def _isolation_forest(network: Network, forest: Any, table: Table) -> ir.Value:
    depth = margins_of(network.emit, isolation_ensemble(forest), network.numbers(table), nearest=network.nearest)
    score = network.node("Neg", network.node("Pow", network.floats(2.0), network.node("Neg", depth)))
    return network.node("Sub", score, network.floats(float(forest.offset_)))


def _elliptic_envelope(network: Network, envelope: Any, table: Table) -> ir.Value:
    centred = network.node("Sub", network.numbers(table), network.floats([envelope.location_]))
    turned = network.node("MatMul", centred, network.floats(envelope.get_precision()))
    distance = network.node("ReduceSum", network.node("Mul", turned, centred), network.integers([1]), keepdims=1)
    return network.node("Sub", network.node("Neg", distance), network.floats(float(envelope.offset_)))


def _linear_one_class(network: Network, machine: Any, table: Table) -> ir.Value:
    weights = network.floats(np.reshape(machine.coef_, (-1, 1)))
    return network.node("Sub", network.node("MatMul", network.numbers(table), weights), network.floats(float(machine.offset_[0])))


DECISIONS = {
    "IsolationForest": _isolation_forest,
    "EllipticEnvelope": _elliptic_envelope,
    "SGDOneClassSVM": _linear_one_class,
    "OneClassSVM": skl2onnx.scores,
    "LocalOutlierFactor": skl2onnx.scores,
}
