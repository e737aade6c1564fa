"""Rules for nearest neighbours that are weighted by their distance, where a training sample itself counts alone.

skl2onnx divides by a small number there, and gives a mean of all neighbours. Neighbours of equal weight are left to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules import skl2onnx

_POWERS = {"euclidean": 2.0, "l2": 2.0, "manhattan": 1.0, "l1": 1.0, "cityblock": 1.0}


def _probabilities(network: Network, neighbors: Any, table: Table) -> ir.Value:
    if neighbors.weights == "uniform":
        return skl2onnx.probabilities(network, neighbors, table)
    weights, places = _nearest(network, neighbors, table)
    classes = np.eye(len(neighbors.classes_))[np.reshape(neighbors._y, -1)]
    return _mean(network, weights, places, classes)


def _values(network: Network, neighbors: Any, table: Table) -> ir.Value:
    if neighbors.weights == "uniform":
        return skl2onnx.values(network, neighbors, table)
    weights, places = _nearest(network, neighbors, table)
    return _mean(network, weights, places, np.reshape(neighbors._y, (len(neighbors._y), -1)))


def _mean(network: Network, weights: ir.Value, places: ir.Value, targets: Any) -> ir.Value:
    """Return the weighted mean of the neighbours' targets, [N, targets]."""
    found = network.node("Gather", network.floats(targets), places, axis=0)
    last = network.integers([-1])
    weighted = network.node("Mul", found, network.node("Unsqueeze", weights, last))
    total = network.node("ReduceSum", weights, network.integers([1]), keepdims=1)
    return network.node("Div", network.node("ReduceSum", weighted, network.integers([1]), keepdims=0), total)


def _nearest(network: Network, neighbors: Any, table: Table) -> tuple[ir.Value, ir.Value]:
    """Return the weights of the nearest samples and their numbers, [N, neighbours]."""
    if callable(neighbors.weights):
        network.reject(f"{type(neighbors).__name__} has a function of its own for weights: train it with weights='distance'")
    distances = _distances(network, neighbors, network.numbers(table))
    count = network.integers([neighbors.n_neighbors])
    near, places = network.emit.nodes("TopK", [distances, count], where=network.where, count=2, axis=1, largest=0, sorted=1)
    same = network.node("Cast", network.node("Equal", near, network.floats(0.0)), to=int(ir.DataType.FLOAT))
    some = network.node("ReduceMax", same, network.integers([1]), keepdims=1)
    inverse = network.node("Div", network.floats(1.0), near)
    return network.node("Where", network.node("Greater", some, network.floats(0.5)), same, inverse), places


def _distances(network: Network, neighbors: Any, rows: ir.Value) -> ir.Value:
    """Return the distances from each row to each training sample, from their differences, so that equal ones have 0."""
    metric = neighbors.effective_metric_
    power = _POWERS.get(metric, float((neighbors.effective_metric_params_ or {}).get("p", neighbors.p)))
    if metric not in (*_POWERS, "minkowski"):
        network.reject(
            f"{type(neighbors).__name__} with weights='distance' and metric {metric!r} has no rule: use metric='minkowski'"
        )
    samples = np.asarray(neighbors._fit_X, np.float32)[None]
    differences = network.node("Sub", network.node("Unsqueeze", rows, network.integers([1])), network.floats(samples))
    axis = network.integers([2])
    if power == 2.0:
        return network.node("ReduceL2", differences, axis, keepdims=0)
    if power == 1.0:
        return network.node("ReduceL1", differences, axis, keepdims=0)
    powers = network.node("Pow", network.node("Abs", differences), network.floats(power))
    return network.node("Pow", network.node("ReduceSum", powers, axis, keepdims=0), network.floats(1.0 / power))


def _within_radius(network: Network, neighbors: Any, _table: Table) -> ir.Value:
    network.reject(
        f"{type(neighbors).__name__} has no counterpart in ONNX, because the number of neighbours varies: use K neighbours"
    )


PROBABILITIES = {"KNeighborsClassifier": _probabilities, "RadiusNeighborsClassifier": _within_radius}
VALUES = {"KNeighborsRegressor": _values, "RadiusNeighborsRegressor": _within_radius}
