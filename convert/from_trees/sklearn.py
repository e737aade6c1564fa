"""Read scikit-learn estimators and pipelines.

skops files are data: only types of scikit-learn and NumPy are rebuilt. A pickle is a program, so it is opened only when the user
says that its author is trusted. The graph's first output is what labels are predicted from: probabilities where the estimator
has them, else decision values, else the regressor's value.
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
from convert.graph.emit import BATCH_AXIS, OPSET
from edgewright.errors import ModelError

_DATA_TYPES = ("sklearn.", "numpy.", "scipy.sparse.")
_NOT_DATA = ("sklearn.datasets.", "sklearn.externals.", "sklearn.utils.")
_STILL_DATA = ("sklearn.utils._bunch.Bunch",)
"""A dict whose keys are attributes too: what ensembles keep their parts in."""


def read_sklearn(path: Path, *, pickled: bool, trust: bool) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of an estimator and its class labels (none for a regressor).

    Raises:
        ModelError: it is not trusted, cannot be loaded, or an operator in it has no counterpart in ONNX.
    """
    estimator = load_estimator(path, pickled=pickled, trust=trust)
    labels = tuple(str(label) for label in getattr(estimator, "classes_", ()))
    return _graph_of(estimator, path), labels


def load_estimator(path: Path, *, pickled: bool, trust: bool) -> Any:
    """Load an estimator from a skops file, or from a pickle when `trust` says so."""
    estimator = _unpickled(path, trust) if pickled else _from_skops(path, trust)
    _refuse_text(estimator, path)
    if not hasattr(estimator, "n_features_in_"):
        raise ModelError(
            f"{path} must hold a fitted scikit-learn estimator of tables, but it holds {type(estimator).__name__}: "
            "fit it on an array [samples, features], then save it"
        )
    for part in _parts(estimator):
        if hasattr(part, "transformers_"):
            _select_by_place(part)
        if hasattr(part, "flatten_transform"):  # of what a voting classifier's `transform` gives; skl2onnx knows one form
            part.flatten_transform = False
    return estimator


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and those inside pipelines, column transformers and ensembles of several."""
    yield estimator
    named = [step[1] for step in getattr(estimator, "steps", ())]
    named += [step[1] for step in getattr(estimator, "transformers_", getattr(estimator, "transformer_list", ()))]
    inner = [getattr(estimator, name, None) for name in ("best_estimator_", "final_estimator_", "regressor_")]
    for one in (*named, *inner):
        if hasattr(one, "get_params"):
            yield from _parts(one)


def _refuse_text(estimator: Any, path: Path) -> None:
    for part in _parts(estimator):
        categories = getattr(part, "categories_", ())
        if hasattr(part, "vocabulary_") or any(np.asarray(one).dtype.kind in "OUS" for one in categories):
            raise ModelError(
                f"{path} must take numbers, but its {type(part).__name__} takes text: encode text as numbers before the model, "
                "and save the estimator that takes the numbers"
            )


def _select_by_place(transformer: Any) -> None:
    """Let a transformer that was fitted on a table with named columns take an array with the same columns in that order."""
    places = getattr(transformer, "_transformer_to_input_indices", None)
    if places is None:
        return
    transformer.transformers_ = [(name, one, list(places.get(name, columns))) for name, one, columns in transformer.transformers_]
    transformer.transformers = [(name, one, list(places.get(name, columns))) for name, one, columns in transformer.transformers]
    transformer._columns = [columns for _, _, columns in transformer.transformers]


def source_outputs(estimator: Any, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what the estimator itself says, in the form of the graph's first output."""
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(features), np.float32)
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(features), np.float32)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    return np.asarray(estimator.predict(features), np.float32).reshape(len(features), -1)


def _from_skops(path: Path, trust: bool) -> Any:
    import skops.io

    unknown = skops.io.get_untrusted_types(file=path)
    strangers = [
        name for name in unknown if name not in _STILL_DATA and (not name.startswith(_DATA_TYPES) or name.startswith(_NOT_DATA))
    ]
    if strangers and not trust:
        raise ModelError(
            f"{path} must hold types of scikit-learn and NumPy only, but it holds {', '.join(strangers)}: "
            "save a model without custom types, or add --trust if you made it"
        )
    try:
        return skops.io.load(path, trusted=unknown)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as wrong:
        raise ModelError(f"{path}: this scikit-learn model cannot be loaded: {wrong}") from wrong


def _unpickled(path: Path, trust: bool) -> Any:
    if not trust:
        raise ModelError(
            f"{path} is a pickle, which can run any code when it is opened: add --trust if you made it, "
            "or save the model with skops.io.dump instead"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as wrong:  # a pickle runs code of its own, which may raise anything
        raise ModelError(f"{path}: this pickle cannot be opened: {type(wrong).__name__}: {wrong}") from wrong


def _graph_of(estimator: Any, path: Path) -> ir.Model:
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier, is_regressor

    if not is_classifier(estimator) and not is_regressor(estimator):
        raise ModelError(
            f"{path} must hold a classifier or regressor, but {type(estimator).__name__} is neither: "
            "save the whole pipeline that ends in one"
        )
    _refuse_several_answers(estimator, path)
    kind = [("features", FloatTensorType([None, int(estimator.n_features_in_)]))]
    *before, last = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    ensemble = ensemble_of_estimator(last, path)
    if ensemble is not None and not before:
        return trees.graph_of(ensemble)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one library about another; nothing that a user could act on
            proto = _converted(estimator, kind) if ensemble is None else _transformed(estimator[:-1], kind, ensemble)
    except Exception as wrong:  # its errors share no base, and all mean that this estimator is not expressible
        reason = " ".join(str(wrong.__cause__ or wrong).split())[:200]
        raise ModelError(f"{path}: {type(estimator).__name__} cannot be expressed in ONNX: {reason}") from wrong
    return _with_scores_only(proto)


def _refuse_several_answers(estimator: Any, path: Path) -> None:
    """Raise `ModelError` for a classifier that answers several questions about a sample: its outputs name no single class."""
    from sklearn.base import is_classifier

    answer: Any = None
    with contextlib.suppress(Exception):  # whatever an estimator says to zeros; its own complaints come with the real samples
        answer = estimator.predict(np.zeros((1, estimator.n_features_in_), np.float32))
    if answer is not None and is_classifier(estimator) and np.ndim(answer) > 1:
        raise ModelError(
            f"{path} must predict one label per sample, but {type(estimator).__name__} predicts {np.shape(answer)[1]}: "
            "save one classifier per label"
        )


def _transformed(transformer: Any, kind: Any, ensemble: trees.Ensemble) -> onnx.ModelProto:
    """Put the trees of another framework behind the transformers of scikit-learn."""
    from skl2onnx import convert_sklearn

    head = ir.to_proto(trees.graph_of(ensemble))
    opset = {"": OPSET, trees.ML_DOMAIN: trees.ML_OPSET}
    body = convert_sklearn(transformer, initial_types=kind, target_opset=opset)
    del body.opset_import[:]  # skl2onnx names only the sets that it used; parts can be joined when they name the same ones
    body.opset_import.extend(head.opset_import)
    body.ir_version = head.ir_version
    body = onnx.compose.add_prefix(body, "before/", rename_inputs=False)
    joint = [(body.graph.output[0].name, trees.FEATURES)]
    return onnx.compose.merge_models(body, onnx.compose.add_prefix(head, "", rename_nodes=False), io_map=joint)


def _converted(estimator: Any, kind: Any) -> Any:
    """Convert with probabilities as one array; estimators that only have decision values do not know that option."""
    from skl2onnx import convert_sklearn

    opset = {"": OPSET}
    try:
        return convert_sklearn(estimator, initial_types=kind, options={id(estimator): {"zipmap": False}}, target_opset=opset)
    except NameError as wrong:
        if "zipmap" not in str(wrong):
            raise
        return convert_sklearn(estimator, initial_types=kind, target_opset=opset)


def _with_scores_only(proto: onnx.ModelProto) -> ir.Model:
    """Drop the label output: its argmax is in the scores, and class names travel beside the graph."""
    proto.producer_name, proto.producer_version, proto.domain, proto.doc_string = "edgewright", "", "", ""
    proto.graph.name = "model"
    model = ir.from_proto(proto)
    scores = [output for output in model.graph.outputs if output.dtype is ir.DataType.FLOAT]
    labelled = len(scores) < len(model.graph.outputs)
    if labelled and _last_size(scores[0]) == 1:
        scores = [_one_score_per_class(model.graph, scores[0])]
    model.graph.outputs[:] = scores
    for value in (*model.graph.inputs, *scores):
        sizes = value.shape.dims if value.shape is not None else ()
        value.shape = ir.Shape([BATCH_AXIS, *(size if isinstance(size, int) else None for size in sizes[1:])])
    return model


def _one_score_per_class(graph: ir.Graph, decision: ir.Value) -> ir.Value:
    """Give a binary classifier's single decision value a second column, so that the largest one names the class."""
    name, decision.name = decision.name, "decision"
    negative = ir.node("Neg", [decision], name="scores/Neg")
    both = ir.node("Concat", [negative.outputs[0], decision], attributes={"axis": 1}, name="scores/Concat")
    graph.extend([negative, both])
    scores = both.outputs[0]
    scores.name, scores.type, scores.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape([BATCH_AXIS, 2])
    return scores


def _last_size(value: ir.Value) -> object:
    return value.shape.dims[-1] if value.shape is not None else None
