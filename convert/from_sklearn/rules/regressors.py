"""Rules for regressors: values, [N, targets]."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_sklearn.rules import skl2onnx
from convert.from_sklearn.rules.classifiers import before, last_step, mean, perceptron
from convert.from_sklearn.rules.ensembles import stacked
from convert.from_sklearn.rules.transformers import function_of
from convert.from_trees.boosting import ensemble_of_estimator
from convert.from_trees.ensemble import margins_of, outputs_of


def _any_values(network: Network, regressor: Any, table: Table) -> ir.Value:
    ensemble = ensemble_of_estimator(regressor, network.path)
    if ensemble is None:
        return skl2onnx.values(network, regressor, table)
    margins = margins_of(network.emit, ensemble, network.numbers(table), nearest=network.nearest)
    return outputs_of(network.emit, ensemble, margins)


def _pipeline(network: Network, pipeline: Any, table: Table) -> ir.Value:
    return network.values(last_step(pipeline), before(network, pipeline, table))


def _stacking(network: Network, stacking: Any, table: Table) -> ir.Value:
    return network.values(stacking.final_estimator_, stacked(network, stacking, table))


def _voting(network: Network, voting: Any, table: Table) -> ir.Value:
    return mean(network, [network.values(part, table) for part in voting.estimators_], voting._weights_not_none)


def _bagging(network: Network, bagging: Any, table: Table) -> ir.Value:
    members = zip(bagging.estimators_, bagging.estimators_features_, strict=True)
    parts = [network.values(part, network.selected(table, [int(one) for one in features])) for part, features in members]
    return mean(network, parts)


def _one_per_target(network: Network, several: Any, table: Table) -> ir.Value:
    return network.joined([network.values(part, table) for part in several.estimators_])


def _perceptron(network: Network, regressor: Any, table: Table) -> ir.Value:
    value = perceptron(network, regressor, table)
    return network.node("Exp", value) if regressor.out_activation_ == "exp" else value


def _chain(network: Network, chain: Any, table: Table) -> ir.Value:
    """Give each regressor the features and the values of those before it."""
    rows = network.numbers(table)
    found: list[ir.Value] = []
    for part in chain.estimators_:
        found.append(network.values(part, Table(network.joined([rows, *found]))))
    return network.joined([found[place] for place in np.argsort(chain.order_)])


def _transformed_target(network: Network, outer: Any, table: Table) -> ir.Value:
    value = network.values(outer.regressor_, table)
    transformer = outer.transformer_
    inverse = _INVERSES.get(type(transformer).__name__)
    if inverse is None:
        network.reject(f"TransformedTargetRegressor with {type(transformer).__name__} has no inverse in ONNX: use StandardScaler")
    return inverse(network, transformer, value)


def _inverse_function(network: Network, transformer: Any, value: ir.Value) -> ir.Value:
    return function_of(network, transformer.inverse_func, transformer.inv_kw_args, value)


def _scaled_back(network: Network, scaler: Any, value: ir.Value) -> ir.Value:
    """Undo (value - centre) / scale."""
    scale, centre = getattr(scaler, "scale_", None), getattr(scaler, "mean_", getattr(scaler, "center_", None))
    value = value if scale is None else network.node("Mul", value, network.floats(scale))
    return value if centre is None else network.node("Add", value, network.floats(centre))


def _range_back(network: Network, scaler: Any, value: ir.Value) -> ir.Value:
    """Undo value * scale + minimum."""
    return network.node("Div", network.node("Sub", value, network.floats(scaler.min_)), network.floats(scaler.scale_))


def _power_back(network: Network, power: Any, value: ir.Value) -> ir.Value:
    """Undo Box-Cox or Yeo-Johnson, and the standardization after it."""
    value = _scaled_back(network, power._scaler, value) if power.standardize else value
    undo = _yeo_johnson_back if power.method == "yeo-johnson" else _box_cox_back
    columns = [undo(network, network.columns(value, [place]), float(shape)) for place, shape in enumerate(power.lambdas_)]
    return network.joined(columns)


def _box_cox_back(network: Network, value: ir.Value, shape: float) -> ir.Value:
    if shape == 0:
        return network.node("Exp", value)
    grown = network.node("Add", network.node("Mul", value, network.floats(shape)), network.floats(1.0))
    return network.node("Pow", grown, network.floats(1.0 / shape))


def _yeo_johnson_back(network: Network, value: ir.Value, shape: float) -> ir.Value:
    zero = network.floats(0.0)
    upper = network.node("Sub", _box_cox_back(network, network.node("Max", value, zero), shape), network.floats(1.0))
    mirrored = network.node("Neg", network.node("Min", value, zero))
    lower = network.node("Sub", network.floats(1.0), _box_cox_back(network, mirrored, 2.0 - shape))
    return network.node("Where", network.node("Less", value, zero), lower, upper)


_INVERSES = {
    "FunctionTransformer": _inverse_function,
    "StandardScaler": _scaled_back,
    "RobustScaler": _scaled_back,
    "MaxAbsScaler": _scaled_back,
    "MinMaxScaler": _range_back,
    "PowerTransformer": _power_back,
}
_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")

VALUES = {
    "": _any_values,
    **dict.fromkeys(("Pipeline", *_SEARCHES), _pipeline),
    "StackingRegressor": _stacking,
    "VotingRegressor": _voting,
    "MLPRegressor": _perceptron,
    "BaggingRegressor": _bagging,
    "MultiOutputRegressor": _one_per_target,
    "RegressorChain": _chain,
    "TransformedTargetRegressor": _transformed_target,
}
