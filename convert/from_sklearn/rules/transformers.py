"""Rules for transformers of columns: pipelines, unions, imputers, and scalers that skl2onnx lacks or converts differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules import skl2onnx
from convert.from_sklearn.rules.classifiers import before, last_step
from convert.from_sklearn.rules.nearest_imputer import filled_by_neighbors
from convert.from_trees.ensemble import rounded_down


def function_of(network: Network, function: Any, arguments: Mapping[str, Any] | None, value: ir.Value) -> ir.Value:
    """Return a function of NumPy that FunctionTransformer applies, for each element."""
    if function is None:
        return value
    name = getattr(function, "__name__", str(function))
    emit = _FUNCTIONS.get(name) if isinstance(function, np.ufunc) else None
    if emit is None or arguments:
        network.reject(
            f"FunctionTransformer must apply one of NumPy's functions ({', '.join(sorted(_FUNCTIONS))}) without arguments, but "
            f"it applies {name}: compute these features before the model"
        )
    return emit(network, value)


def _any_transformed(network: Network, transformer: Any, table: Table) -> Table:
    if hasattr(transformer, "get_support"):  # a selection of features
        return network.selected(table, [int(column) for column in transformer.get_support(indices=True)])
    return skl2onnx.transformed(network, transformer, table)


def _pipeline(network: Network, pipeline: Any, table: Table) -> Table:
    last = last_step(pipeline)
    table = before(network, pipeline, table)
    return table if last in (None, "passthrough") else network.transformed(last, table)


def _column_transformer(network: Network, outer: Any, table: Table) -> Table:
    parts = []
    for name, part, columns in outer.transformers_:
        indices = column_indices(outer, name, columns)
        if part == "drop" or not indices:
            continue
        chosen = network.selected(table, indices)
        result = chosen if part == "passthrough" else network.transformed(part, chosen)
        parts.append(_scaled(network, result, (outer.transformer_weights or {}).get(name)))
    return Table(network.joined(parts))


def column_indices(outer: Any, name: str, columns: Any) -> list[int]:
    """Return the indices of the columns that a part of a ColumnTransformer takes."""
    known = getattr(outer, "_transformer_to_input_indices", {}).get(name)
    chosen = columns if known is None else known
    return [int(place) for place in np.arange(outer.n_features_in_)[chosen].reshape(-1)]


def _feature_union(network: Network, union: Any, table: Table) -> Table:
    weights = union.transformer_weights or {}
    parts = [
        _scaled(network, table if part == "passthrough" else network.transformed(part, table), weights.get(name))
        for name, part in union.transformer_list
        if part not in ("drop", None)
    ]
    return Table(network.joined(parts))


def _scaled(network: Network, result: Table, weight: float | None) -> ir.Value:
    matrix = network.numbers(result)
    return matrix if weight is None else network.node("Mul", matrix, network.floats(weight))


def _function(network: Network, transformer: Any, table: Table) -> Table:
    if transformer.func is None:
        return table
    return Table(function_of(network, transformer.func, transformer.kw_args, network.numbers(table)))


def _simple_imputer(network: Network, imputer: Any, table: Table) -> Table:
    """Replace missing values; leave out columns that had none other, and append the marks of the missing ones."""
    if table.texts:
        return _impute_text(network, imputer, table)
    rows, statistics = network.numbers(table), np.asarray(imputer.statistics_, np.float64)
    kept = np.flatnonzero(~np.isnan(statistics)) if imputer.strategy != "constant" else np.arange(len(statistics))
    missing = _missing(network, imputer.missing_values, rows)
    filled = network.node("Where", missing, network.floats([np.nan_to_num(statistics)]), rows)
    if len(kept) < len(statistics):
        filled = network.columns(filled, kept.tolist())
    return Table(network.joined([filled, *_marks(network, imputer, missing)]))


def _impute_text(network: Network, imputer: Any, table: Table) -> Table:
    """Replace a text that marks missing values; None and NaN are no texts, so the graph never gets them."""
    if imputer.add_indicator or table.numbers is not None:
        network.reject("SimpleImputer of text must have add_indicator=False and take columns of text only")
    if not isinstance(imputer.missing_values, str):
        return table
    marker = network.constant(np.array([imputer.missing_values], object))
    filled = {
        column: network.node("Where", network.node("Equal", text, marker), network.constant(np.array([fill], object)), text)
        for (column, text), fill in zip(sorted(table.texts.items()), imputer.statistics_, strict=True)
    }
    return Table(texts=filled)


def _missing(network: Network, marker: Any, rows: ir.Value) -> ir.Value:
    if marker is None or np.isnan(marker):
        return network.node("IsNaN", rows)
    return network.node("Equal", rows, network.floats(float(marker)))


def _marks(network: Network, imputer: Any, missing: ir.Value) -> list[ir.Value]:
    indicator = getattr(imputer, "indicator_", None)
    if not imputer.add_indicator or indicator is None or not len(indicator.features_):
        return []
    return [network.columns(network.node("Cast", missing, to=int(ir.DataType.FLOAT)), indicator.features_.tolist())]


def _missing_indicator(network: Network, indicator: Any, table: Table) -> Table:
    missing = _missing(network, indicator.missing_values, network.numbers(table))
    marks = network.node("Cast", missing, to=int(ir.DataType.FLOAT))
    return Table(network.columns(marks, indicator.features_.tolist()))


def _neighbor_imputer(network: Network, imputer: Any, table: Table) -> Table:
    """Fill the gaps from the nearest training samples, and append the marks of the missing values."""
    rows = network.numbers(table)
    missing = _missing(network, imputer.missing_values, rows)
    filled = filled_by_neighbors(network, imputer, rows, missing)
    return Table(network.joined([filled, *_marks(network, imputer, missing)]))


def _normalizer(network: Network, normalizer: Any, table: Table) -> Table:
    """Divide rows by their norm; rows of zeros stay."""
    rows, axis = network.numbers(table), network.integers([1])
    magnitude = network.node("Abs", rows) if normalizer.norm == "max" else rows
    operator = {"l1": "ReduceL1", "l2": "ReduceL2", "max": "ReduceMax"}[normalizer.norm]
    norm = network.node(operator, magnitude, axis, keepdims=1)
    empty = network.node("Equal", norm, network.floats(0.0))
    return Table(network.node("Div", rows, network.node("Where", empty, network.floats(1.0), norm)))


def _discretizer(network: Network, bins: Any, table: Table) -> Table:
    """Count the inner edges at or below each value, and make one column per bin where they are encoded."""
    rows, columns = network.numbers(table), []
    for place, edges in enumerate(bins.bin_edges_):
        inner = np.array([[-rounded_down(-edge) for edge in edges[1:-1]]], np.float32).reshape(1, -1)
        value = network.columns(rows, [place])
        reached = network.node("GreaterOrEqual", value, network.floats(inner))
        index = network.node("ReduceSum", network.node("Cast", reached, to=1), network.integers([1]), keepdims=1)
        if bins.encode != "ordinal":
            index = network.node("Cast", network.node("Equal", index, network.floats([np.arange(len(edges) - 1)])), to=1)
        columns.append(index)
    return Table(network.joined(columns))


def _random_fourier(network: Network, sampler: Any, table: Table) -> Table:
    angles = network.node(
        "Gemm", network.numbers(table), network.floats(sampler.random_weights_), network.floats(sampler.random_offset_)
    )
    return Table(network.node("Mul", network.node("Cos", angles), network.floats((2.0 / sampler.n_components) ** 0.5)))


def _projected(network: Network, table: Table, mean: Any, weights: Any) -> Table:
    rows = network.numbers(table)
    centred = rows if mean is None else network.node("Sub", rows, network.floats([mean]))
    return Table(network.node("MatMul", centred, network.floats(weights)))


def _independent_components(network: Network, analysis: Any, table: Table) -> Table:
    return _projected(network, table, analysis.mean_ if analysis.whiten else None, analysis.components_.T)


def _factors(network: Network, analysis: Any, table: Table) -> Table:
    scaled = analysis.components_ / analysis.noise_variance_
    covariance = np.linalg.inv(np.eye(len(analysis.components_)) + scaled @ analysis.components_.T)
    return _projected(network, table, analysis.mean_, scaled.T @ covariance)


def _discriminant(network: Network, analysis: Any, table: Table) -> Table:
    weights = analysis.scalings_[:, : analysis._max_components]
    return _projected(network, table, analysis.xbar_ if analysis.solver == "svd" else None, weights)


def _distances(network: Network, clusters: Any, table: Table) -> Table:
    rows = network.node("Unsqueeze", network.numbers(table), network.integers([1]))
    differences = network.node("Sub", rows, network.floats(clusters.cluster_centers_[None]))
    return Table(network.node("ReduceL2", differences, network.integers([2]), keepdims=0))


def _unary(operator: str) -> Callable[[Network, ir.Value], ir.Value]:
    return lambda network, value: network.node(operator, value)


def _log_1p(network: Network, value: ir.Value) -> ir.Value:
    return network.node("Log", network.node("Add", value, network.floats(1.0)))


def _standard_scaler(network: Network, scaler: Any, table: Table) -> Table:
    """Emit the same float32 operations as the scaler: trees after it may have splits at the very values that it gives."""
    value = network.numbers(table)
    if scaler.with_mean:
        value = network.node("Sub", value, network.floats(scaler.mean_))
    if scaler.with_std:
        value = network.node("Div", value, network.floats(scaler.scale_))
    return Table(value)


def _robust_scaler(network: Network, scaler: Any, table: Table) -> Table:
    value = network.numbers(table)
    if scaler.with_centering:
        value = _in_place(network, "Sub", value, scaler.center_)
    if scaler.with_scaling:
        value = _in_place(network, "Div", value, scaler.scale_)
    return Table(value)


def _max_abs_scaler(network: Network, scaler: Any, table: Table) -> Table:
    value = _in_place(network, "Div", network.numbers(table), scaler.scale_)
    if getattr(scaler, "clip", False):  # since scikit-learn 1.8
        value = network.node("Clip", value, network.floats(-1.0), network.floats(1.0))
    return Table(value)


def _in_place(network: Network, operator: str, value: ir.Value, parameter: npt.NDArray[np.floating[Any]]) -> ir.Value:
    """Emit an operation in place on float32, for which NumPy computes in the type of the parameter and rounds the result."""
    if parameter.dtype == np.float32:
        return network.node(operator, value, network.constant(parameter))
    wide = network.node("Cast", value, to=int(ir.DataType.DOUBLE))
    return network.node("Cast", network.node(operator, wide, network.constant(parameter)), to=int(ir.DataType.FLOAT))


def _exp_m1(network: Network, value: ir.Value) -> ir.Value:
    return network.node("Sub", network.node("Exp", value), network.floats(1.0))


def _logarithm(base: float) -> Callable[[Network, ir.Value], ir.Value]:
    return lambda network, value: network.node("Mul", network.node("Log", value), network.floats(1.0 / np.log(base)))


_FUNCTIONS: dict[str, Callable[[Network, ir.Value], ir.Value]] = {
    "absolute": _unary("Abs"),
    "arctan": _unary("Atan"),
    "ceil": _unary("Ceil"),
    "cos": _unary("Cos"),
    "exp": _unary("Exp"),
    "expm1": _exp_m1,
    "fabs": _unary("Abs"),
    "floor": _unary("Floor"),
    "log": _unary("Log"),
    "log10": _logarithm(10.0),
    "log1p": _log_1p,
    "log2": _logarithm(2.0),
    "negative": _unary("Neg"),
    "reciprocal": _unary("Reciprocal"),
    "rint": _unary("Round"),
    "sign": _unary("Sign"),
    "sin": _unary("Sin"),
    "sqrt": _unary("Sqrt"),
    "square": lambda network, value: network.node("Mul", value, value),
    "tanh": _unary("Tanh"),
}

TRANSFORMED = {
    "": _any_transformed,
    "Pipeline": _pipeline,
    "ColumnTransformer": _column_transformer,
    "FeatureUnion": _feature_union,
    "FunctionTransformer": _function,
    "StandardScaler": _standard_scaler,
    "RobustScaler": _robust_scaler,
    "MaxAbsScaler": _max_abs_scaler,
    "SimpleImputer": _simple_imputer,
    "MissingIndicator": _missing_indicator,
    "KNNImputer": _neighbor_imputer,
    "Normalizer": _normalizer,
    "KBinsDiscretizer": _discretizer,
    "RBFSampler": _random_fourier,
    "FastICA": _independent_components,
    "FactorAnalysis": _factors,
    "LinearDiscriminantAnalysis": _discriminant,
    "KMeans": _distances,
    "MiniBatchKMeans": _distances,
}
