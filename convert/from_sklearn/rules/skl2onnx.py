"""Estimators without a rule of ours: skl2onnx converts them, and their nodes join the network."""

from __future__ import annotations

import warnings
from typing import Any

import onnx
import onnx.inliner
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_trees.ensemble import ML_DOMAIN, ML_OPSET
from convert.from_trees.missing_values import direct_missing_values
from convert.graph.emit import OPSET


def transformed(network: Network, estimator: Any, table: Table) -> Table:
    """Return what `transform` returns."""
    return Table(_outputs(network, estimator, table)[-1])


def values(network: Network, estimator: Any, table: Table) -> ir.Value:
    """Return what a regressor's `predict` returns, [N, targets]."""
    result = _outputs(network, estimator, table)[0]
    return network.node("Reshape", result, network.integers([0, -1]))


def probabilities(network: Network, estimator: Any, table: Table) -> ir.Value:
    """Return what `predict_proba` returns."""
    return _outputs(network, estimator, table, zipmap=False)[-1]


def raw_scores(network: Network, estimator: Any, table: Table) -> ir.Value:
    """Return the decision values as skl2onnx writes them."""
    return _outputs(network, estimator, table, zipmap=False, raw_scores=True)[-1]


def scores(network: Network, estimator: Any, table: Table) -> ir.Value:
    """Return the last output of an estimator that has no options, such as an outlier detector."""
    return _outputs(network, estimator, table)[-1]


def _outputs(network: Network, estimator: Any, table: Table, **options: bool) -> list[ir.Value]:
    rows = network.numbers(table)
    proto = _converted(network, estimator, options)
    direct_missing_values(proto.graph, estimator)
    proto = onnx.inliner.inline_local_functions(proto)
    _prefix(proto.graph, f"{network.where}/", {"": "", "features": "features"})
    return network.emit.insert(ir.from_proto(proto).graph, [rows])


def _prefix(graph: onnx.GraphProto, prefix: str, names: dict[str, str]) -> None:
    """Prefix the names of nodes and values, but those in `names`, in a graph and its subgraphs.

    ONNX's own `add_prefix` leaves out values that a subgraph takes from the graph around it.
    """
    defined = [*graph.input, *graph.initializer]
    outputs = [output for node in graph.node for output in node.output]
    names = {name: prefix + name for name in (*(value.name for value in defined), *outputs)} | names
    del graph.value_info[:]
    for value in (*defined, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.name = prefix + (node.name or f"{node.op_type}/{node.output[0]}")
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _prefix(attribute.g, prefix, {**names})


def _converted(network: Network, estimator: Any, options: dict[str, bool]) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    kinds = [("features", FloatTensorType([None, int(estimator.n_features_in_)]))]
    opset = {"": OPSET, ML_DOMAIN: ML_OPSET}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside libraries
            proto: onnx.ModelProto = convert_sklearn(
                estimator, initial_types=kinds, options={id(estimator): options} if options else None, target_opset=opset
            )
            return proto
    except NameError as error:  # an option that this estimator lacks; its output is already in that form
        if options and any(name in str(error) for name in options):
            return _converted(network, estimator, {name: on for name, on in options.items() if name not in str(error)})
        raise
    except Exception as error:  # noqa: BLE001  skl2onnx's errors have no common base class
        reason = " ".join(str(error.__cause__ or error).split())
        if "Unable to find a" in reason:
            reason = "neither edgewright nor skl2onnx has a rule for it"
        network.reject(f"{type(estimator).__name__} cannot be expressed in ONNX: {reason}")
