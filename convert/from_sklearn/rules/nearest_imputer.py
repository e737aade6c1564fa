"""The rule for KNNImputer: the mean of the nearest training samples that have the missing feature.

skl2onnx's graph fails where a sample has no distance to any training sample. Distances are computed in float64, as scikit-learn
does, because neighbours change with their rounding. Source: the documentation of sklearn.impute.KNNImputer and of
sklearn.metrics.pairwise.nan_euclidean_distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_sklearn.network import Network

_DOUBLE = int(ir.DataType.DOUBLE)
_UNKNOWN = 1e300
"""Stands for the distance of two samples without a common feature; less than infinity, which excludes a training sample."""


def filled_by_neighbors(network: Network, imputer: Any, rows: ir.Value, missing: ir.Value) -> ir.Value:
    """Return the rows, float32[N, features], with the gaps in bool `missing` filled, and without features that no sample had."""
    if imputer.metric != "nan_euclidean" or callable(imputer.weights):
        network.reject(
            "KNNImputer must have metric='nan_euclidean' and weights 'uniform' or 'distance': it has functions of its own"
        )
    gaps = np.asarray(imputer._mask_fit_X, bool)
    samples = np.where(gaps, 0.0, np.asarray(imputer._fit_X, np.float64))
    squared = _squared_distances(network, rows, missing, samples, gaps)
    columns = [
        _filled_column(network, imputer, place, squared, samples[:, place], gaps[:, place])
        if not gaps[:, place].all()
        else network.floats(np.zeros((1, 1)))
        for place in range(samples.shape[1])
    ]
    kept = list(range(len(columns))) if imputer.keep_empty_features else np.flatnonzero(~gaps.all(axis=0)).tolist()
    values = [
        network.node("Where", network.columns(missing, [place]), columns[place], network.columns(rows, [place])) for place in kept
    ]
    return network.joined(values)


def _squared_distances(
    network: Network, rows: ir.Value, missing: ir.Value, samples: npt.NDArray[np.float64], gaps: npt.NDArray[np.bool_]
) -> ir.Value:
    """Return the squares of the distances over common features, scaled to all features, float64[N, samples]."""
    values = network.node("Cast", network.node("Where", missing, network.floats(0.0), rows), to=_DOUBLE)
    present = network.node("Cast", network.node("Not", missing), to=_DOUBLE)
    there = (~gaps).astype(np.float64)
    own = network.node("MatMul", network.node("Mul", values, values), network.constant(there.T))
    both = network.node(
        "MatMul", network.node("Mul", values, network.constant(np.array(-2.0))), network.constant(samples.T.copy())
    )
    others = network.node("MatMul", present, network.constant((samples**2).T.copy()))
    total = network.node("Max", network.node("Sum", own, both, others), network.constant(np.array(0.0)))
    common = network.node("MatMul", present, network.constant(there.T.copy()))
    scaled = network.node("Div", network.node("Mul", total, network.constant(np.array(float(samples.shape[1])))), common)
    unknown = network.node("Less", common, network.constant(np.array(0.5)))
    return network.node("Where", unknown, network.constant(np.array(_UNKNOWN)), scaled)


def _filled_column(
    network: Network,
    imputer: Any,
    place: int,
    squared: ir.Value,
    samples: npt.NDArray[np.float64],
    gaps: npt.NDArray[np.bool_],
) -> ir.Value:
    """Return what one feature gets where it is missing, float32[N, 1]."""
    allowed = squared
    if gaps.any():
        allowed = network.node("Where", network.constant(gaps[None]), network.constant(np.array(np.inf)), squared)
    count = network.integers([min(imputer.n_neighbors, int((~gaps).sum()))])
    near, places = network.emit.nodes("TopK", [allowed, count], where=network.where, count=2, axis=1, largest=0, sorted=1)
    weights = _weights(network, near, by_distance=imputer.weights == "distance")
    found = network.node("Gather", network.constant(samples), places)
    axis = network.integers([1])
    total = network.node("ReduceSum", weights, axis, keepdims=1)
    weighted = network.node("ReduceSum", network.node("Mul", weights, found), axis, keepdims=1)
    nothing = network.node("Equal", total, network.constant(np.array(0.0)))
    mean = network.constant(np.array(samples[~gaps].mean()))
    divisor = network.node("Where", nothing, network.constant(np.array(1.0)), total)
    value = network.node("Where", nothing, mean, network.node("Div", weighted, divisor))
    return network.node("Cast", value, to=int(ir.DataType.FLOAT))


def _weights(network: Network, near: ir.Value, *, by_distance: bool) -> ir.Value:
    """Return the weights of neighbours at squared distances `near`; a neighbour at distance 0 counts alone."""
    known = network.node("Cast", network.node("Less", near, network.constant(np.array(_UNKNOWN))), to=_DOUBLE)
    if not by_distance:
        return known
    same = network.node("Cast", network.node("Equal", near, network.constant(np.array(0.0))), to=_DOUBLE)
    some = network.node(
        "Greater", network.node("ReduceMax", same, network.integers([1]), keepdims=1), network.constant(np.array(0.5))
    )
    inverse = network.node("Mul", network.node("Reciprocal", network.node("Sqrt", near)), known)
    return network.node("Where", some, same, inverse)
