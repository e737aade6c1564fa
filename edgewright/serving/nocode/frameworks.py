"""Load a model file with its framework. Runs in a worker process only; each framework is imported inside its function.

A pickle is a program and so is a Lambda layer: both are opened only if their author is trusted.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import BadInputError, ModelError, cause_of, one_line
from edgewright.serving.nocode.identify import SAVED_MODEL, Framework, check_trusted
from edgewright.serving.nocode.model import PREDICT, TABLE, LoadedModel, Predict, as_array
from edgewright.serving.nocode.text_columns import text_columns

_METHODS = (PREDICT, "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
_VERSION = re.compile(rb"_sklearn_version.{1,10}?(\d+\.\d+(?:\.\d+)*)", re.DOTALL)
_OF_EXTRAS = ("sklearn", "skops", "keras", "tensorflow", "lightgbm", "xgboost")
_EXTRA = {Framework.LIGHTGBM: "boosting", Framework.XGBOOST: "boosting"}


def load_model(path: Path, framework: Framework, *, trust: bool) -> LoadedModel:
    """Load a model file; its values stay on the processor.

    Raises:
        ModelError: the file is not a model of the framework, holds code without `trust`, or was made for another version.
        BadInputError: the framework is not installed, or a pickle is not trusted.
    """
    check_trusted(path, trust=trust)
    try:
        return _LOADERS[framework](path, trust)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        package = f"'edgewright[{_EXTRA.get(framework, 'convert')}]'" if missing in _OF_EXTRAS else missing
        raise BadInputError(f"{path} needs the package {missing}, which is not installed: pip install {package}") from error


def _scikit_learn(path: Path, trust: bool) -> LoadedModel:
    import sklearn

    estimator = _from_skops(path, trust=trust) if path.suffix == ".skops" else _unpickled(path)
    methods = {name: _calling(getattr(estimator, name), name) for name in _METHODS if callable(getattr(estimator, name, None))}
    if not methods:
        raise ModelError(f"{path} must hold an estimator with predict() or transform(), but it holds {type(estimator).__name__}")
    names = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    texts = text_columns(estimator)
    inputs = tuple(TensorSpec(name=name, dtype="object" if name in texts else "float64", shape=("N",)) for name in names)
    width = _width(estimator)
    if not names:
        inputs = (
            TensorSpec(name=TABLE, dtype="object" if width is None else "float64", shape=("N", *([width] if width else []))),
        )
    return LoadedModel(
        framework=Framework.SCIKIT_LEARN,
        version=sklearn.__version__,
        inputs=inputs,
        methods=methods,
        is_table=width is not None,
        columns=names,
        needs_frame=bool(names),
    )


def _width(estimator: Any) -> int | None:
    """Return the number of columns; None for an estimator of texts, such as one that begins with a vectorizer."""
    try:
        return int(estimator.n_features_in_)
    except AttributeError:
        return None


def _calling(method: Callable[[Any], Any], name: str) -> Predict:
    def run(values: Any) -> Tensors:
        table = values[TABLE] if isinstance(values, Mapping) else values
        result = method(table)
        return {name: as_array(result.toarray() if hasattr(result, "toarray") else result)}

    return run


def _unpickled(path: Path) -> Any:
    import joblib

    try:
        return joblib.load(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the pickle's code may raise anything
        raise ModelError(
            f"{path}: this pickle cannot be opened: {type(error).__name__}: {one_line(error)}{_advice(path)}"
        ) from error


def _advice(path: Path) -> str:
    import sklearn

    written = _VERSION.search(path.read_bytes())
    if written is None or written[1].decode() == sklearn.__version__:
        return ""
    version = written[1].decode()
    return (
        f"; it was written with scikit-learn {version}, but {sklearn.__version__} is installed: install scikit-learn=={version}"
    )


def _from_skops(path: Path, *, trust: bool) -> Any:
    import skops.io

    try:
        unknown = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # whatever a damaged archive makes it raise
        raise ModelError(f"{path} must be a skops file, but it cannot be read: {one_line(error)}") from error
    if unknown and not trust:
        raise ModelError(f"{path} must hold known types only, but it holds {', '.join(unknown)}: add --trust if you made it")
    return skops.io.load(path, trusted=unknown)


def _lightgbm(path: Path, trust: bool) -> LoadedModel:
    del trust  # the format has no code
    lightgbm = importlib.import_module("lightgbm")
    try:
        booster = lightgbm.Booster(model_file=str(path))
    except lightgbm.basic.LightGBMError as error:
        raise ModelError(f"{path} must be a model of LightGBM in text, but it cannot be read: {one_line(error)}") from error
    names = tuple(booster.feature_name())
    width = booster.num_feature()
    named = () if names == tuple(f"Column_{index}" for index in range(width)) else names

    def run(table: Any) -> Tensors:
        return {PREDICT: as_array(booster.predict(table))}

    return _boosted(Framework.LIGHTGBM, lightgbm.__version__, run, named, width)


def _xgboost(path: Path, trust: bool) -> LoadedModel:
    del trust  # the formats have no code
    xgboost = importlib.import_module("xgboost")
    booster = xgboost.Booster()
    try:
        booster.load_model(path)
    except (xgboost.core.XGBoostError, ValueError) as error:
        reason = one_line(error).partition(" Stack trace:")[0]
        raise ModelError(f"{path} must be a model of XGBoost in JSON or UBJSON, but it cannot be read: {reason}") from error
    names = tuple(booster.feature_names or ())

    def run(table: Any) -> Tensors:
        matrix = xgboost.DMatrix(table, feature_names=list(names) or None)
        return {PREDICT: as_array(booster.predict(matrix))}

    return _boosted(Framework.XGBOOST, xgboost.__version__, run, names, int(booster.num_features()))


def _boosted(framework: Framework, version: str, run: Predict, names: tuple[str, ...], width: int) -> LoadedModel:
    inputs = tuple(TensorSpec(name=name, dtype="float64", shape=("N",)) for name in names)
    return LoadedModel(
        framework=framework,
        version=version,
        inputs=inputs or (TensorSpec(name=TABLE, dtype="float64", shape=("N", width)),),
        methods={PREDICT: run},
        is_table=True,
        columns=names,
    )


def _quiet_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the plain kernels give the same bits on every run
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def _keras(path: Path, trust: bool) -> LoadedModel:
    _quiet_tensorflow()
    keras = importlib.import_module("keras")
    try:
        network = keras.models.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:  # Keras raises many kinds
        hint = "" if trust or ("unsafe" not in str(error) and "Lambda" not in str(error)) else ": add --trust if you made it"
        raise ModelError(f"{path} must be a model of Keras, but it cannot be loaded: {cause_of(error)}{hint}") from error
    inputs = tuple(_keras_spec(tensor) for tensor in network.inputs)
    outputs = tuple(_keras_spec(tensor, name) for tensor, name in zip(network.outputs, network.output_names, strict=True))

    def run(values: Any) -> Tensors:
        fed = [values[spec.name] for spec in inputs]
        results = network(fed[0] if len(fed) == 1 else fed, training=False)
        flat = (
            results if isinstance(results, list | tuple) else list(results.values()) if isinstance(results, dict) else [results]
        )
        return {spec.name: as_array(result) for spec, result in zip(outputs, flat, strict=True)}

    return LoadedModel(
        framework=Framework.KERAS, version=keras.__version__, inputs=inputs, outputs=outputs, methods={PREDICT: run}
    )


def _keras_spec(tensor: Any, name: str | None = None) -> TensorSpec:
    shape = tuple("N" if axis == 0 else size if size is not None else f"d{axis}" for axis, size in enumerate(tensor.shape))
    dtype = "object" if tensor.dtype == "string" else "bool" if tensor.dtype == "bool" else str(tensor.dtype)
    return TensorSpec(name=name or tensor.name, dtype=dtype, shape=shape)


def _saved_model(path: Path, trust: bool) -> LoadedModel:
    del trust  # a graph of operators; those that run Python are not in it
    _quiet_tensorflow()
    tensorflow = importlib.import_module("tensorflow")
    try:
        loaded = tensorflow.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises many kinds
        raise ModelError(f"{path} must be a SavedModel ({SAVED_MODEL}), but it cannot be loaded: {one_line(error)}") from error
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        found = ", ".join(loaded.signatures) or "no signature"
        raise ModelError(f"{path} must have the signature serving_default, but it has {found}: export the model for serving")
    _, keywords = signature.structured_input_signature
    inputs = tuple(_tensor_spec(name, spec) for name, spec in sorted(keywords.items()))
    outputs = tuple(_tensor_spec(name, spec) for name, spec in sorted(signature.structured_outputs.items()))

    def run(values: Any) -> Tensors:
        fed = {spec.name: tensorflow.constant(values[spec.name], keywords[spec.name].dtype) for spec in inputs}
        try:
            results = signature(**fed)
        except tensorflow.errors.InvalidArgumentError as error:
            raise ValueError(one_line(error)) from error
        return {spec.name: _decoded(results[spec.name].numpy()) for spec in outputs}

    version: str = tensorflow.__version__
    methods: dict[str, Predict] = {PREDICT: run}
    return LoadedModel(framework=Framework.TENSORFLOW, version=version, inputs=inputs, outputs=outputs, methods=methods)


def _tensor_spec(name: str, spec: Any) -> TensorSpec:
    if spec.shape.rank is None:
        raise ModelError(f"the input or output {name} must have a known number of axes")
    shape = tuple("N" if axis == 0 else size or f"d{axis}" for axis, size in enumerate(spec.shape))
    dtype = "object" if spec.dtype.name == "string" else spec.dtype.name
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _decoded(array: Any) -> Any:
    """Return an array of TensorFlow; its texts are bytes."""
    if array.dtype.kind not in "OS":
        return array
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in array.reshape(-1)]
    return np.array(texts, dtype=object).reshape(array.shape)


_LOADERS: dict[Framework, Callable[[Path, bool], LoadedModel]] = {
    Framework.SCIKIT_LEARN: _scikit_learn,
    Framework.LIGHTGBM: _lightgbm,
    Framework.XGBOOST: _xgboost,
    Framework.KERAS: _keras,
    Framework.TENSORFLOW: _saved_model,
}
