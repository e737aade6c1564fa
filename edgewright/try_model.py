"""Run a model once on a sample, in its own framework: `python -m edgewright.try_model`, always in a separate process.

    find      the model file in a registered folder
    open      its framework, names of its inputs, and a function that runs it
    arrange   the arrays or the table of the sample as the model takes them
    run       once; the outputs become a `.npz`

The registry stores both sides as the golden sample of the version. A model that fails here would fail in every service.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.run_source import open_source
from convert.source.feed import Arrays, Feed
from convert.source.identify import SourceKind, identify
from convert.source.options import SourceOptions
from edgewright.contracts import wire
from edgewright.contracts.models.mlflow_folder import MLMODEL, read_mlflow
from edgewright.contracts.models.sample_input import SampleInput, TriedModel, TryRequest, spec_of
from edgewright.contracts.samples import Tensors, fit, read_npz, write_npz
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import EdgewrightError, ModelError, SamplesError, cause_of
from edgewright.worker_process import serve

_FRAMEWORKS = {
    SourceKind.KERAS: ("keras", "keras"),
    SourceKind.SKLEARN: ("sklearn", "scikit-learn"),
    SourceKind.PICKLE: ("sklearn", "scikit-learn"),
    SourceKind.LIGHTGBM: ("lightgbm", "lightgbm"),
    SourceKind.XGBOOST: ("xgboost", "xgboost-cpu"),
    SourceKind.SAVED_MODEL: ("tensorflow", "tensorflow-cpu"),
    SourceKind.FROZEN_GRAPH: ("tensorflow", "tensorflow-cpu"),
    SourceKind.TFLITE: ("tensorflow", "ai-edge-litert"),
    SourceKind.TORCH: ("pytorch", "torch"),
    SourceKind.TORCHSCRIPT: ("pytorch", "torch"),
    SourceKind.ONNX: ("onnx", "onnx"),
    SourceKind.CATBOOST: ("custom", "catboost"),
}
"""The registry's name of a framework, and its distribution."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A loaded model: `run` takes its inputs in order and returns its outputs by name."""

    run: Callable[[Arrays], Tensors]
    inputs: tuple[TensorSpec, ...] = ()
    """Empty if the format does not declare them."""
    columns: tuple[str, ...] = ()
    """Names of the columns of the only input, in the model's order, if it was trained with names."""


def find_model(path: Path) -> Path:
    """Return the model in a registered file or folder.

    Raises:
        ModelError: the folder holds no model, or several.
    """
    if path.is_file() or (path / "saved_model.pb").is_file():
        return path
    if (path / MLMODEL).is_file() and (named := read_mlflow(path).model):
        return find_model(path / named)
    models = [each for each in sorted(path.iterdir()) if _is_model(each)]
    if len(models) != 1:
        names = ", ".join(each.name for each in models) or "none"
        raise ModelError(f"{path} must hold one model to run with a sample, but it holds {names}")
    return models[0]


def handle(raw: bytes) -> bytes:
    """Answer one request: run the model and write its outputs."""
    request = wire.decode(raw, TryRequest, what="request")
    arrays = read_npz(Path(request.inputs))
    sample = SampleInput({name: arrays[name] for name in request.names}, request.is_table)
    path = find_model(Path(request.model))
    kind = identify(path)
    try:
        opened = _open(kind, path, SourceOptions(trust=request.trust))
        outputs = opened.run(_arranged(sample, opened))
    except EdgewrightError:
        raise
    except Exception as error:  # frameworks raise errors of every kind
        raise ModelError(f"{path.name} must score its sample input, but it failed: {cause_of(error)}") from error
    _check_outputs(outputs, path)
    write_npz(Path(request.outputs), outputs)
    framework, distribution = _FRAMEWORKS[kind]
    tried = TriedModel(
        framework=framework,
        framework_version=_version(distribution),
        inputs=tuple(spec_of(name, array) for name, array in sample.arrays.items()),
        outputs=tuple(spec_of(name, array) for name, array in outputs.items()),
    )
    return wire.encode(tried)


def _open(kind: SourceKind, path: Path, options: SourceOptions) -> _Opened:
    match kind:
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            return _open_estimator(path, pickled=kind is SourceKind.PICKLE, trust=options.trust)
        case SourceKind.ONNX:
            return _open_onnx(path)
        case SourceKind.KERAS:
            return _open_keras(path, trust=options.trust)
        case SourceKind.SAVED_MODEL:
            return _open_saved_model(path)
    run = open_source(kind, path, options)
    return _Opened(lambda arrays: _numbered(run(Feed(arrays=[_in_float32(array) for array in arrays]))))


def _open_estimator(path: Path, *, pickled: bool, trust: bool) -> _Opened:
    from convert.from_sklearn.files import load_estimator

    estimator = load_estimator(path, pickled=pickled, trust=trust)
    method = next((name for name in ("predict", "transform") if hasattr(estimator, name)), None)
    if method is None:
        raise ModelError(f"{path.name} must have predict or transform, but {type(estimator).__name__} has neither")
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))

    def run(arrays: Arrays) -> Tensors:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an array in place of the data frame of the training; the columns are in its order
            found = getattr(estimator, method)(*arrays)
        return {"output": np.asarray(found.toarray() if hasattr(found, "toarray") else found)}

    return _Opened(run, columns=names)


def _open_onnx(path: Path) -> _Opened:
    import onnx

    from accel.backends.onnxruntime_cpu import open_runtime, run_runtime

    graph = onnx.load(path, load_external_data=False).graph
    weights = {each.name for each in graph.initializer}
    specs = tuple(_onnx_spec(each) for each in graph.input if each.name not in weights)
    runtime = open_runtime(path)
    names = [output.name for output in runtime.get_outputs()]

    def run(arrays: Arrays) -> Tensors:
        outputs = run_runtime(runtime, {spec.name: array for spec, array in zip(specs, arrays, strict=True)}, path)
        return {name: _tensor_of(output) for name, output in zip(names, outputs, strict=True)}

    return _Opened(run, specs)


def _onnx_spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(axis.dim_value or axis.dim_param or f"axis{index}" for index, axis in enumerate(tensor.shape.dim))
    return TensorSpec(name=value.name, dtype=np.dtype(dtype).name, shape=shape)


def _tensor_of(output: Any) -> npt.NDArray[Any]:
    """Return a tensor; maps from class to probability become its columns."""
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.asarray([list(row.values()) for row in output])
    return np.asarray(output)


def _open_keras(path: Path, *, trust: bool) -> _Opened:
    from convert.from_keras.reader import as_argument, load_keras

    model = load_keras(path, trust=trust)
    import keras

    inputs = getattr(model, "inputs", None) or ()
    specs = tuple(TensorSpec(name=each.name.split(":")[0], dtype=str(each.dtype), shape=_named(each.shape)) for each in inputs)

    def run(arrays: Arrays) -> Tensors:
        return _numbered([np.asarray(each) for each in keras.tree.flatten(model.predict(as_argument(model, arrays), verbose=0))])

    return _Opened(run, specs)


def _open_saved_model(path: Path) -> _Opened:
    from convert.frameworks import import_tensorflow

    tf = import_tensorflow()
    model = tf.saved_model.load(str(path))
    signatures = model.signatures
    if not signatures:
        raise ModelError(f"{path.name} must have a serving signature, but it has none: save it with signatures=…")
    function = signatures["serving_default" if "serving_default" in signatures else min(signatures)]
    tensors = function.structured_input_signature[1]
    specs = tuple(
        TensorSpec(name=name, dtype=tensors[name].dtype.as_numpy_dtype.__name__.rstrip("_"), shape=_named(tensors[name].shape))
        for name in sorted(tensors)
    )

    def run(arrays: Arrays, _model: Any = model) -> Tensors:  # the function does not keep its variables
        outputs = function(**{spec.name: tf.constant(array) for spec, array in zip(specs, arrays, strict=True)})
        return {name: outputs[name].numpy() for name in sorted(outputs)}

    return _Opened(run, specs)


def _named(shape: Sequence[int | None]) -> tuple[int | str, ...]:
    return tuple(f"axis{index}" if size is None else int(size) for index, size in enumerate(shape))


def _arranged(sample: SampleInput, opened: _Opened) -> Arrays:
    """Return the arrays of a sample in the order, dtypes and shapes of the model's inputs.

    Raises:
        SamplesError: an input or a column is missing, or a shape or dtype does not fit.
    """
    specs = opened.inputs
    if sample.is_table and {spec.name for spec in specs} != set(sample.arrays):
        arrays = [_matrix(sample.arrays, opened.columns)]
    elif len(specs) in (0, len(sample.arrays)) and (len(sample.arrays) == 1 or not specs):
        arrays = list(sample.arrays.values())
    else:
        arrays = [_named_array(sample.arrays, spec, specs) for spec in specs]
    if not specs:
        return arrays
    if len(arrays) != len(specs):
        raise SamplesError(f"a sample must have the model's inputs {', '.join(map(str, specs))}, but it is one table: name them")
    return [_fitted(array, spec) for array, spec in zip(arrays, specs, strict=True)]


def _named_array(arrays: Mapping[str, npt.NDArray[Any]], spec: TensorSpec, specs: Sequence[TensorSpec]) -> npt.NDArray[Any]:
    if spec.name not in arrays:
        expected = ", ".join(map(str, specs))
        raise SamplesError(f"a sample must have the model's inputs {expected}, but it has {', '.join(arrays)}")
    array = arrays[spec.name]
    return array[:, None] if array.ndim == 1 and len(spec.shape) == 2 else array  # the column of a table


def _matrix(columns: Tensors, order: Sequence[str]) -> npt.NDArray[Any]:
    """Return a table as a matrix [rows, columns]; with text in it, of Python objects."""
    names = list(order) or list(columns)
    missing = [name for name in names if name not in columns]
    if missing:
        raise SamplesError(f"a sample must have the column {missing[0]} of the model, but it has {', '.join(columns)[:200]}")
    chosen = [columns[name] for name in names]
    if any(column.dtype.kind in "US" for column in chosen):
        return np.stack([column.astype(object) for column in chosen], axis=1)
    return np.stack(chosen, axis=1)


def _fitted(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu" and array.dtype.kind in "iuf" and np.array_equal(array.astype(dtype), array):
        array = array.astype(dtype)
    return fit(array, spec, "the sample")


def _in_float32(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _numbered(outputs: Sequence[npt.NDArray[Any]]) -> Tensors:
    return {"output" if len(outputs) == 1 else f"output_{index}": array for index, array in enumerate(outputs)}


def _check_outputs(outputs: Tensors, path: Path) -> None:
    objects = next((name for name, array in outputs.items() if array.dtype.kind not in "biufUSO" or array.ndim == 0), None)
    if objects is not None:
        raise ModelError(f"{path.name} must return arrays of numbers or text, but {objects} is {outputs[objects].dtype}")


def _is_model(path: Path) -> bool:
    try:
        identify(path)
    except ModelError:
        return False
    return True


def _version(distribution: str) -> str:
    for name in (distribution, distribution.removesuffix("-cpu")):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


if __name__ == "__main__":
    serve(handle)
