"""Rules for CalibratedClassifierCV: scores become probabilities by a sigmoid, by steps, or by a temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules.classifiers import mean, normalized, two_columns


def _calibrated_probabilities(network: Network, calibrated: Any, table: Table) -> ir.Value:
    parts = [_one_calibrated(network, part, table) for part in calibrated.calibrated_classifiers_]
    return mean(network, parts)


def _one_calibrated(network: Network, part: Any, table: Table) -> ir.Value:
    count, decides = len(part.classes), hasattr(part.estimator, "decision_function")
    scores = network.decisions(part.estimator, table) if decides else network.probabilities(part.estimator, table)
    if part.method == "temperature":
        return _tempered(network, scores, part, decides=decides)
    if count == 2 and not decides:
        scores = network.columns(scores, [1])
    columns = [
        _calibrated(network, network.columns(scores, [place]) if count > 2 else scores, calibrator)
        for place, calibrator in enumerate(part.calibrators)
    ]
    if count == 2:
        return two_columns(network, columns[0])
    if len(columns) < count:
        network.reject("CalibratedClassifierCV must have every class in every fold, but one is missing: train it on more samples")
    return normalized(network, network.joined(columns), otherwise=1.0 / count)


def _calibrated(network: Network, scores: ir.Value, calibrator: Any) -> ir.Value:
    if hasattr(calibrator, "a_"):
        scaled = network.node("Mul", scores, network.floats(-calibrator.a_))
        return network.node("Sigmoid", network.node("Sub", scaled, network.floats(calibrator.b_)))
    return interpolated(network, scores, calibrator)


def interpolated(network: Network, scores: ir.Value, isotonic: Any) -> ir.Value:
    """Return the piecewise linear function of an isotonic regression, [N, 1]: the sum of its steps."""
    places, heights = np.asarray(isotonic.X_thresholds_, np.float64), np.asarray(isotonic.y_thresholds_, np.float64)
    narrow = places.astype(np.float32).astype(np.float64)
    kept = np.r_[True, np.diff(narrow) > 0]
    narrow, heights = narrow[kept], heights[kept]
    if len(narrow) == 1:
        return network.node("Add", network.node("Mul", scores, network.floats(0.0)), network.floats(heights[0]))
    low, high = network.floats([narrow[:-1]]), network.floats([narrow[1:]])
    inside = network.node("Min", network.node("Max", scores, low), high)
    steps = network.node("Mul", network.node("Sub", inside, low), network.floats([np.diff(heights) / np.diff(narrow)]))
    return network.node(
        "Add", network.node("ReduceSum", steps, network.integers([1]), keepdims=1), network.floats(float(heights[0]))
    )


def _tempered(network: Network, scores: ir.Value, part: Any, *, decides: bool) -> ir.Value:
    if not decides:
        scores = network.node("Log", network.node("Add", scores, network.floats(np.finfo(np.float64).eps)))
    elif len(part.classes) == 2:
        scores = network.joined([network.node("Neg", scores), scores])
    scaled = network.node("Mul", scores, network.floats(float(part.calibrators[0].beta_)))
    return network.node("Softmax", scaled, axis=1)


PROBABILITIES = {"CalibratedClassifierCV": _calibrated_probabilities}
