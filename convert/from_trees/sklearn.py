"""Read scikit-learn estimators and pipelines.

A skops file is data: only types of scikit-learn and NumPy are loaded. A pickle is a program, so its author must be trusted. The
graph has one output: probabilities if the estimator has them, else decision values, else the regressor's value.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
import onnx_ir as ir

from convert.from_trees import ensemble as trees
from convert.from_trees.boosting import ensemble_of_estimator
from convert.from_trees.missing_values import direct_missing_values
from convert.graph.emit import BATCH_AXIS, OPSET
from edgewright.errors import ModelError

_DATA_TYPES = ("sklearn.", "numpy.", "scipy.sparse.")
_NOT_DATA = ("sklearn.datasets.", "sklearn.externals.", "sklearn.utils.")
_STILL_DATA = ("sklearn.utils._bunch.Bunch",)
"""A dict whose keys are also attributes; ensembles store their parts in it."""


def read_sklearn(path: Path, *, pickled: bool, trust: bool, nearest: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of an estimator and its class labels (empty for a regressor).

    Raises:
        ModelError: the file is not trusted, cannot be loaded, or holds an estimator without counterpart in ONNX.
    """
    return convert_estimator(load_estimator(path, pickled=pickled, trust=trust), path, nearest=nearest)


def convert_estimator(estimator: Any, path: Path, *, nearest: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of a loaded estimator and its class labels, as `read_sklearn` does."""
    labels = tuple(str(label) for label in getattr(estimator, "classes_", ()))
    return _graph_of(estimator, path, nearest), labels


def load_estimator(path: Path, *, pickled: bool, trust: bool) -> Any:
    """Load an estimator from a skops file, or from a pickle if its author is trusted.

    Raises:
        ModelError: the file is not trusted, cannot be loaded, or does not hold a fitted estimator of numeric tables.
    """
    estimator = _unpickled(path, trust) if pickled else _from_skops(path, trust)
    _reject_text(estimator, path)
    if not hasattr(estimator, "n_features_in_"):
        raise ModelError(
            f"{path} must hold a fitted scikit-learn estimator for tabular data, but it holds {type(estimator).__name__}: "
            "fit it on an array [samples, features], then save it"
        )
    for part in _parts(estimator):
        if hasattr(part, "transformers_"):
            _select_by_index(part)
        if hasattr(part, "flatten_transform"):  # of a voting classifier's `transform`; skl2onnx supports only this value
            part.flatten_transform = False
        if hasattr(part, "_weights_not_none"):
            _leave_out_dropped(part)
        if hasattr(part, "decision_function_shape"):  # one value per class, so that the largest is the label
            part.decision_function_shape = "ovr"
    return estimator


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and the estimators inside it (pipelines, column transformers, ensembles)."""
    yield estimator
    inner = [step[1] for step in getattr(estimator, "steps", ())]
    inner += [step[1] for step in getattr(estimator, "transformers_", getattr(estimator, "transformer_list", ()))]
    inner += [getattr(estimator, name, None) for name in ("best_estimator_", "final_estimator_", "regressor_")]
    for part in inner:
        if hasattr(part, "get_params"):
            yield from _parts(part)


def _reject_text(estimator: Any, path: Path) -> None:
    for part in _parts(estimator):
        categories = getattr(part, "categories_", ())
        if hasattr(part, "vocabulary_") or any(np.asarray(values).dtype.kind in "OUS" for values in categories):
            raise ModelError(
                f"{path} must take numbers, but its {type(part).__name__} takes text: encode text as numbers before the model, "
                "and save the estimator that takes the numbers"
            )


def _leave_out_dropped(voting: Any) -> None:
    """Leave out the dropped parts of a voting estimator and their weights, and make the weights an array, as skl2onnx needs."""
    weights = voting._weights_not_none
    voting.estimators = [(name, part) for name, part in voting.estimators if part != "drop"]
    voting.weights = None if weights is None else np.asarray(weights)


def _select_by_index(transformer: Any) -> None:
    """Make a transformer that was fitted on named columns select them by index, so that it takes an array."""
    indices = getattr(transformer, "_transformer_to_input_indices", None)
    if indices is None:
        return
    transformer.transformers_ = [
        (name, part, list(indices.get(name, columns))) for name, part, columns in transformer.transformers_
    ]
    transformer.transformers = [
        (name, part, list(indices.get(name, columns))) for name, part, columns in transformer.transformers
    ]
    transformer._columns = [columns for _, _, columns in transformer.transformers]


def accepts_missing_values(estimator: Any) -> bool:
    """Return True if the estimator predicts for a row of missing values."""
    row = np.full((1, estimator.n_features_in_), np.nan)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(np.isfinite(source_outputs(estimator, row)).all())
    except Exception:  # noqa: BLE001  every estimator refuses in its own way
        return False


def source_outputs(estimator: Any, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the estimator's own predictions in the shape of the graph's output, [samples, scores]."""
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(features), np.float32)
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(features), np.float32)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    if hasattr(estimator, "classes_"):
        return _votes(estimator, features)
    return np.asarray(estimator.predict(features), np.float32).reshape(len(features), -1)


def _votes(estimator: Any, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return each class's share of the votes: of a voting classifier's parts, or of another classifier without scores."""
    *before, last = _chain(estimator)
    for step in before:
        features = step.transform(features)
    if getattr(last, "voting", None) != "hard":
        return np.asarray(last.predict(features)[:, None] == np.asarray(last.classes_), np.float32)
    ballots = np.asarray(last.transform(features), np.int64)
    weights = np.ones(ballots.shape[1]) if last.weights is None else last.weights
    votes = (ballots[:, :, None] == np.arange(len(last.classes_))) * weights[:, None]
    return np.asarray(votes.sum(axis=1) / weights.sum(), np.float32)


def _chain(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, or an estimator alone; a search stands for the best estimator that it found."""
    if hasattr(estimator, "best_estimator_"):
        return _chain(estimator.best_estimator_)
    if not hasattr(estimator, "steps"):
        return [estimator]
    *before, last = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    return [*before, *_chain(last)]


def _from_skops(path: Path, trust: bool) -> Any:
    import skops.io

    unknown = skops.io.get_untrusted_types(file=path)
    untrusted = [
        name for name in unknown if name not in _STILL_DATA and (not name.startswith(_DATA_TYPES) or name.startswith(_NOT_DATA))
    ]
    if untrusted and not trust:
        raise ModelError(
            f"{path} must hold types of scikit-learn and NumPy only, but it holds {', '.join(untrusted)}: "
            "save a model without custom types, or add --trust if you made it"
        )
    try:
        return skops.io.load(path, trusted=unknown)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        raise ModelError(f"{path}: this scikit-learn model cannot be loaded: {error}") from error


def _unpickled(path: Path, trust: bool) -> Any:
    if not trust:
        raise ModelError(
            f"{path} is a pickle, which can run any code when it is opened: add --trust if you made it, "
            "or save the model with skops.io.dump instead"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # the pickle's code may raise anything
        raise ModelError(f"{path}: this pickle cannot be opened: {type(error).__name__}: {_without_stack(error)}") from error


def _without_stack(error: Exception) -> str:
    """Return an error's text on one line, without the stack of a native library that some (XGBoost, LightGBM) add to it."""
    lines = str(error).split("Stack trace:", maxsplit=1)[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip())


def _graph_of(estimator: Any, path: Path, nearest: bool) -> ir.Model:
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier, is_regressor

    if not is_classifier(estimator) and not is_regressor(estimator):
        raise ModelError(
            f"{path} must hold a classifier or regressor, but {type(estimator).__name__} is neither: "
            "save the whole pipeline that ends in one"
        )
    _reject_multioutput(estimator, path)
    initial_types = [("features", FloatTensorType([None, int(estimator.n_features_in_)]))]
    *before, last = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    ensemble = ensemble_of_estimator(last, path)
    if ensemble is not None and not before:
        return trees.graph_of(ensemble, nearest=nearest)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside libraries
            proto = (
                _converted(estimator, initial_types)
                if ensemble is None
                else _pipeline_graph(estimator[:-1], initial_types, ensemble)
            )
    except Exception as error:  # skl2onnx's errors have no common base class
        reason = " ".join(str(error.__cause__ or error).split())
        raise ModelError(f"{path}: {type(estimator).__name__} cannot be expressed in ONNX: {reason}") from error
    direct_missing_values(proto.graph, estimator)
    return _with_scores_only(proto, estimator)


def _reject_multioutput(estimator: Any, path: Path) -> None:
    """Check that a classifier predicts one label per sample."""
    from sklearn.base import is_classifier

    labels: Any = None
    with contextlib.suppress(Exception):  # an error here would come from the zeros; real samples are checked later
        labels = estimator.predict(np.zeros((1, estimator.n_features_in_), np.float32))
    if labels is not None and is_classifier(estimator) and np.ndim(labels) > 1:
        raise ModelError(
            f"{path} must predict one label per sample, but {type(estimator).__name__} predicts {np.shape(labels)[1]}: "
            "save one classifier per label"
        )


def _pipeline_graph(transformer: Any, initial_types: Any, ensemble: trees.Ensemble) -> onnx.ModelProto:
    """Append the graph of a tree ensemble to the graph of scikit-learn's transformers."""
    from skl2onnx import convert_sklearn

    head = ir.to_proto(trees.graph_of(ensemble))
    opset = {"": OPSET, trees.ML_DOMAIN: trees.ML_OPSET}
    body = convert_sklearn(transformer, initial_types=initial_types, target_opset=opset)
    del body.opset_import[:]  # skl2onnx lists only the operator sets it used, but merged models must list the same ones
    body.opset_import.extend(head.opset_import)
    body.ir_version = head.ir_version
    body = onnx.compose.add_prefix(body, "before/", rename_inputs=False)
    joint = [(body.graph.output[0].name, trees.FEATURES)]
    return onnx.compose.merge_models(body, onnx.compose.add_prefix(head, "", rename_nodes=False), io_map=joint)


def _converted(estimator: Any, initial_types: Any) -> Any:
    """Convert with probabilities as one array, an option that estimators with decision values only lack."""
    from skl2onnx import convert_sklearn

    opset = {"": OPSET}
    try:
        return convert_sklearn(
            estimator, initial_types=initial_types, options={id(estimator): {"zipmap": False}}, target_opset=opset
        )
    except NameError as error:
        if "zipmap" not in str(error):
            raise
        return convert_sklearn(estimator, initial_types=initial_types, target_opset=opset)


def _with_scores_only(proto: onnx.ModelProto, estimator: Any) -> ir.Model:
    """Remove the label output: it is the argmax of the scores, and class names are stored in the record of the build."""
    proto.producer_name, proto.producer_version, proto.domain, proto.doc_string = "edgewright", "", "", ""
    proto.graph.name = "model"
    model = ir.from_proto(proto)
    scores = [output for output in model.graph.outputs if output.dtype is ir.DataType.FLOAT]
    labelled = len(scores) < len(model.graph.outputs)
    if labelled and len(estimator.classes_) == 2 and not hasattr(estimator, "predict_proba"):
        scores = [_decisions_of_two_classes(model.graph, scores[0], _chain(estimator)[-1])]
    model.graph.outputs[:] = scores
    for value in (*model.graph.inputs, *scores):
        sizes = value.shape.dims if value.shape is not None else ()
        value.shape = ir.Shape([BATCH_AXIS, *(size if isinstance(size, int) else None for size in sizes[1:])])
    return model


def _decisions_of_two_classes(graph: ir.Graph, scores: ir.Value, last: Any) -> ir.Value:
    """Return the scores [-d, d] for the decision value d of a binary classifier, so that the largest names the class."""
    if type(last).__name__ in ("SVC", "NuSVC"):  # skl2onnx writes [d, -d]
        return _renamed(graph, scores, ir.node("Neg", [scores], name="scores/Neg"))
    declared = 1 if type(last).__name__.startswith("RidgeClassifier") else _last_size(scores)  # skl2onnx declares 2 for Ridge
    if getattr(last, "voting", None) == "hard" or declared == 2:
        return scores
    negative = ir.node("Neg", [scores], name="scores/Neg")
    graph.append(negative)
    both = ir.node("Concat", [negative.outputs[0], scores], attributes={"axis": 1}, name="scores/Concat")
    return _renamed(graph, scores, both)


def _renamed(graph: ir.Graph, scores: ir.Value, node: ir.Node) -> ir.Value:
    """Append the node that computes the graph's output instead of `scores`, under the same name."""
    graph.append(node)
    result = node.outputs[0]
    result.name, scores.name = scores.name, "decision"
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([BATCH_AXIS, 2])
    return result


def _last_size(value: ir.Value) -> object:
    return value.shape.dims[-1] if value.shape is not None else None
