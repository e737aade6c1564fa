"""Read a source model as an ONNX graph, with the reader of its kind.

The counterpart is run_source.py, which runs the same model in its own framework. Each reader imports its framework only when
it is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from convert.source.identify import SourceKind
from convert.source.options import SourceOptions
from convert.source.parity import FLOAT_TOLERANCE
from convert.source.resource_limits import Limits
from convert.source.samples import Examples
from edgewright.contracts.variant import Preprocessing
from edgewright.errors import ModelError

if TYPE_CHECKING:
    from convert.from_keras.custom_layers import CustomLayers
    from convert.from_keras.keras_file import KerasFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """The graph of a source model, and the facts about the source that later steps need."""

    model: ir.Model
    labels: tuple[str, ...] = ()
    """Class names that the source holds, in the order of the first output."""
    head_layers: tuple[str, ...] = ()
    """Layers that the author attached as the head (`save_network`)."""
    preprocessing: Preprocessing | None = None
    """Preprocessing of images that the source declares."""
    missing_values: bool = False
    """The source predicts for missing values (NaN)."""
    tolerance: float = FLOAT_TOLERANCE
    """Largest relative difference between the graph, which computes in float32, and the source."""
    examples: Mapping[str, Examples] = field(default_factory=dict)
    """Values that inputs hold in the source, by name: categories and words."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest number of inputs that are quantized in the source, by name."""


def read_source(kind: SourceKind, path: Path, options: SourceOptions, limits: Callable[[], Limits]) -> SourceModel:
    """Return the graph of the model at `path`.

    Args:
        kind: as returned by `identify`.
        path: the source file or directory.
        options: how to read it.
        limits: returns the limits of a framework's process, from the memory that is free at the time of the call.

    Raises:
        ModelError: the model cannot be loaded, or cannot be expressed in ONNX.
        OperationError: the framework's process reached a limit.
    """
    match kind:
        case SourceKind.KERAS:
            return _read_keras(path, options, limits)
        case SourceKind.SAVED_MODEL | SourceKind.FROZEN_GRAPH:
            return SourceModel(model=_read_tensorflow(kind, path, options, limits))
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            return _read_sklearn(path, options, pickled=kind is SourceKind.PICKLE)
        case SourceKind.LIGHTGBM | SourceKind.XGBOOST:
            from convert.from_trees.boosting import read_lightgbm, read_xgboost

            nearest = options.float64_samples
            model, labels = read_lightgbm(path, nearest=nearest) if kind is SourceKind.LIGHTGBM else read_xgboost(path)
            return SourceModel(model=model, labels=labels, missing_values=True)
        case SourceKind.CATBOOST:
            from convert.from_trees.catboost_trees import read_catboost

            model, labels = read_catboost(path)
            return SourceModel(model=model, labels=labels, missing_values=True)
        case SourceKind.TORCH:
            from convert.from_torch.program import read_program

            return SourceModel(model=read_program(path, trust=options.trust, other_ends=options.other_ends))
        case SourceKind.TORCHSCRIPT:
            from convert.from_torch.script import read_script

            return SourceModel(model=read_script(path, options))
        case SourceKind.TFLITE:
            from convert.from_tflite.reader import read_tflite

            tflite = read_tflite(path)
            return SourceModel(model=tflite.model, tolerance=tflite.tolerance, ranges=tflite.ranges)
        case SourceKind.ONNX:
            from convert.from_onnx import read_onnx_classifier

            model, labels = read_onnx_classifier(path)
            return SourceModel(model=model, labels=labels)


def column_names(kind: SourceKind, path: Path, options: SourceOptions) -> tuple[str, ...]:
    """Return the names that a model of tables has for its columns; none for other models, or if the table had none.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from convert.from_sklearn.files import load_estimator
    from convert.from_sklearn.inputs import inputs_of
    from convert.from_trees.catboost_trees import names_in_catboost
    from convert.from_trees.feature_names import names_in_estimator, names_in_lightgbm, names_in_xgboost

    match kind:
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            estimator = load_estimator(path, pickled=kind is SourceKind.PICKLE, trust=options.trust)
            names = names_in_estimator(estimator)
            return tuple(names[column] for column in inputs_of(estimator).numbers) if names else ()
        case SourceKind.LIGHTGBM:
            return names_in_lightgbm(path)
        case SourceKind.XGBOOST:
            return names_in_xgboost(path)
        case SourceKind.CATBOOST:
            return names_in_catboost(path)
    return ()


def _read_sklearn(path: Path, options: SourceOptions, *, pickled: bool) -> SourceModel:
    from convert.from_sklearn.files import load_estimator
    from convert.from_sklearn.inputs import examples_by_input
    from convert.from_sklearn.reader import convert_estimator
    from convert.from_sklearn.source import accepts_missing_values

    estimator = load_estimator(path, pickled=pickled, trust=options.trust)
    missing_values = accepts_missing_values(estimator)
    model, labels = convert_estimator(estimator, path, nearest=options.float64_samples)
    return SourceModel(model=model, labels=labels, missing_values=missing_values, examples=examples_by_input(estimator))


def _read_keras(path: Path, options: SourceOptions, limits: Callable[[], Limits]) -> SourceModel:
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.keras_file import HALF_TOLERANCES, KerasFile

    custom = custom_layers(options.converters)
    file = KerasFile.open(path)
    if options.trust and file.holds_code(custom):
        model = _read_tensorflow(SourceKind.KERAS, path, options, limits)
    else:
        model = _walk_or_trace(file, custom, options, limits)
    return SourceModel(
        model=model,
        head_layers=() if file.notes is None else file.notes.head_layers,
        preprocessing=None if file.notes is None else file.notes.preprocessing,
        tolerance=HALF_TOLERANCES.get(file.half_precision or "", FLOAT_TOLERANCE),
    )


def _walk_or_trace(file: KerasFile, custom: CustomLayers, options: SourceOptions, limits: Callable[[], Limits]) -> ir.Model:
    """Convert layer by layer; let TensorFlow trace the model when a layer of Keras has no rule."""
    from convert.from_keras.call import UnsupportedLayerError
    from convert.from_keras.reader import read_keras

    try:
        return read_keras(file, custom)
    except UnsupportedLayerError as error:
        reason = str(error)  # the error itself would keep the loaded model in memory
    log.info("traced with TensorFlow reason=%r", reason)
    try:
        return _read_tensorflow(SourceKind.KERAS, file.path, options, limits)
    except ModelError as error:
        log.info("TensorFlow's graph cannot be converted reason=%r", str(error))
        raise ModelError(f"{reason} (TensorFlow's trace of the model cannot be converted either; -v shows the reason)") from error


def _read_tensorflow(kind: SourceKind, path: Path, options: SourceOptions, limits: Callable[[], Limits]) -> ir.Model:
    from convert.from_tensorflow.reader import read_tensorflow

    return read_tensorflow(kind, path, limits(), options)
