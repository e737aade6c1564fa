"""Read scikit-learn estimators and pipelines as graphs.

The graph has one output: the probabilities of the classes if the estimator has them, else its decision values, else votes; the
value of a regressor; the decision value of an outlier detector. A classifier of several targets has one output per target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.inputs import inputs_of
from convert.from_sklearn.network import Network, Rules, Table
from convert.from_sklearn.rules import (
    calibration,
    classifiers,
    encoders,
    ensembles,
    kernels,
    neighbors,
    outliers,
    regressors,
    text,
    transformers,
)
from convert.from_sklearn.source import widths_of_outputs
from convert.from_trees.boosting import ensemble_of_estimator
from convert.from_trees.ensemble import ML_DOMAIN, ML_OPSET, Link
from convert.graph.emit import BATCH_AXIS
from edgewright.errors import ModelError

_RANKERS = ("XGBRanker", "LGBMRanker")
_RULES = Rules(
    transformed={**transformers.TRANSFORMED, **encoders.TRANSFORMED, **text.TRANSFORMED, **kernels.TRANSFORMED},
    probabilities={
        **classifiers.PROBABILITIES,
        **ensembles.PROBABILITIES,
        **calibration.PROBABILITIES,
        **kernels.PROBABILITIES,
        **neighbors.PROBABILITIES,
    },
    decisions={**classifiers.DECISIONS, **ensembles.DECISIONS, **outliers.DECISIONS},
    values={**regressors.VALUES, **kernels.VALUES, **neighbors.VALUES},
)


def read_sklearn(path: Path, *, pickled: bool, trust: bool, nearest: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of an estimator and its class labels (empty for a regressor).

    Raises:
        ModelError: the file is not trusted, cannot be loaded, or holds an estimator without counterpart in ONNX.
    """
    return convert_estimator(load_estimator(path, pickled=pickled, trust=trust), path, nearest=nearest)


def convert_estimator(estimator: Any, path: Path, *, nearest: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of a loaded estimator and its class labels, as `read_sklearn` does."""
    network = Network(path, _RULES, nearest)
    inputs = inputs_of(estimator)
    values = inputs.values()
    outputs = _outputs(network, estimator, inputs.table(network, values))
    widths: list[int] | list[None] = widths_of_outputs(estimator) or [None] * len(outputs)
    for (name, value), width in zip(outputs, widths, strict=True):
        value.name = name
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([BATCH_AXIS, width])
    model = network.emit.model(values, [value for _, value in outputs])
    model.opset_imports[ML_DOMAIN] = ML_OPSET
    model.opset_imports[text.MICROSOFT] = 1
    return model, _labels(estimator)


def _labels(estimator: Any) -> tuple[str, ...]:
    """Return the names of the classes, one per column; of several labels per sample, the columns exclude nothing."""
    classes = getattr(estimator, "classes_", ())
    several = isinstance(classes, list) or _has_several_labels(estimator)
    return () if several else tuple(str(label) for label in classes)


def _has_several_labels(estimator: Any) -> bool:
    last = classifiers.last_step(estimator)
    trees = ensemble_of_estimator(last, Path()) if type(last).__name__.startswith("XGB") else None
    independent = trees is not None and trees.link is Link.SIGMOID and len(trees.base_margins) > 1
    return (
        independent
        or type(last).__name__ == "ClassifierChain"
        or bool(getattr(last, "multilabel_", False))
        or getattr(last, "y_type_", "") == "multilabel-indicator"
    )


def _outputs(network: Network, estimator: Any, table: Table) -> list[tuple[str, ir.Value]]:
    from sklearn.base import is_classifier, is_outlier_detector, is_regressor

    last = classifiers.last_step(estimator)
    if is_classifier(estimator):
        if isinstance(getattr(estimator, "classes_", None), list) and type(last).__name__ != "ClassifierChain":
            return _of_several_targets(network, last, classifiers.before(network, estimator, table))
        return [_of_classifier(network, estimator, table)]
    if is_outlier_detector(estimator) or type(last).__name__ in outliers.DECISIONS:
        return [("scores", network.decisions(estimator, table))]
    if is_regressor(estimator) or type(last).__name__ in _RANKERS:
        return [("value", network.values(estimator, table))]
    raise ModelError(
        f"{network.path} must hold a classifier, a regressor or an outlier detector, but it holds {type(estimator).__name__}: "
        "save the whole pipeline that ends in one"
    )


def _of_classifier(network: Network, estimator: Any, table: Table) -> tuple[str, ir.Value]:
    last = classifiers.last_step(estimator)
    if hasattr(estimator, "predict_proba"):
        return "probabilities", network.probabilities(estimator, table)
    if hasattr(estimator, "decision_function"):
        scores = network.decisions(estimator, table)
        if len(estimator.classes_) > 2:
            return "scores", scores
        scores = network.node("Sub", scores, network.floats(classifiers.threshold(last)))
        return "scores", network.joined([network.node("Neg", scores), scores])
    if type(last).__name__ == "VotingClassifier":
        return "votes", network.probabilities(estimator, table)
    return "votes", classifiers.votes(network, estimator, table)


def _of_several_targets(network: Network, last: Any, table: Table) -> list[tuple[str, ir.Value]]:
    if type(last).__name__ != "MultiOutputClassifier" or not hasattr(last, "predict_proba"):
        raise ModelError(
            f"{network.path} must predict one label per sample, but {type(last).__name__} predicts {len(last.classes_)}: "
            "save one classifier per label"
        )
    return [(f"probabilities_{place}", network.probabilities(part, table)) for place, part in enumerate(last.estimators_)]
