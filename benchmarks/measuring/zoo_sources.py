"""Run a model of the zoo in its own framework, sample by sample; nothing of edgewright takes part.

The samples of an input are counted by its first axis. A source may have them on another axis, or none at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]
"""Take the inputs of one sample, return the outputs in the source's order."""


def source_of(path: Path, constants: Arrays | None = None) -> Run:
    """Return a function that runs the model at `path` in its own framework; only ONNX files can have `constants`."""
    if path.is_dir():
        return _saved_model(path)
    if path.suffix == ".onnx":
        return onnx_graph(path, constants)
    opened = {".tflite": _tflite, ".keras": _keras, ".h5": _keras, ".hdf5": _keras, ".json": _xgboost}
    return opened.get(path.suffix, _pickle)(path)


def source_inputs(path: Path) -> list[str]:
    """Return the names of an ONNX graph's inputs; empty for other formats."""
    if path.suffix != ".onnx":
        return []
    return [node.name for node in _session(path).get_inputs()]


def run_source(run: Run, inputs: Arrays, axes: Mapping[str, int]) -> Arrays:
    """Run every sample alone and stack the outputs, samples first; `axes` has the other places of the axis of samples."""
    count = len(next(iter(inputs.values())))
    results: list[Arrays] = []
    for index in range(count):
        one = {name: np.moveaxis(array[index : index + 1], 0, axes.get(name, 0)) for name, array in inputs.items()}
        results.append({name: np.moveaxis(np.asarray(array), axes.get(name, 0), 0) for name, array in run(one).items()})
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def onnx_graph(path: Path, extra: Arrays | None = None) -> Run:
    """Return a function that runs an ONNX file with onnxruntime; `extra` has inputs that are the same for all samples."""
    return _runner(_session(path), extra)


def dequantized_graph(path: Path) -> Run:
    """Return a function that runs a graph of a block format, whose weights are expanded when it is loaded, as devices do."""
    return _runner(_session(path, {"session.disable_quant_qdq": "1"}), None)


def _runner(session: Any, extra: Arrays | None) -> Run:
    names = [node.name for node in session.get_outputs()]
    first = session.get_inputs()[0].name

    def run(inputs: Arrays) -> Arrays:
        named = {first: next(iter(inputs.values()))} if set(inputs) == {""} else inputs
        outputs = session.run(names, {**named, **(extra or {})})
        return {name: _tensor(output) for name, output in zip(names, outputs, strict=True)}

    return run


def _tensor(output: Any) -> npt.NDArray[Any]:
    """Return an output as an array; maps from class to probability, one per sample, become rows."""
    return np.array([list(one.values()) for one in output], np.float32) if isinstance(output, list) else np.asarray(output)


def _session(path: Path, settings: Mapping[str, str] | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in (settings or {}).items():
        options.add_session_config_entry(name, value)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _tflite(path: Path) -> Run:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source, *others), targets = interpreter.get_input_details(), interpreter.get_output_details()
    assert not others, "models of the zoo have one input"

    def run(inputs: Arrays) -> Arrays:
        (array,) = inputs.values()
        if tuple(source["shape"]) != array.shape:
            interpreter.resize_tensor_input(source["index"], array.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], array)
        interpreter.invoke()
        return {target["name"]: interpreter.get_tensor(target["index"]) for target in targets}

    return run


def _keras(path: Path) -> Run:
    import keras

    model = keras.models.load_model(path, compile=False)

    def run(inputs: Arrays) -> Arrays:
        (array,) = inputs.values()
        outputs = model(array, training=False)
        listed = outputs if isinstance(outputs, list | tuple) else [outputs]
        return {str(place): np.asarray(output) for place, output in enumerate(listed)}

    return run


def _saved_model(path: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]

    def run(inputs: Arrays) -> Arrays:
        (array,) = inputs.values()
        return {key: value.numpy() for key, value in signature(**{name: tf.constant(array)}).items()}

    run.model = loaded  # type: ignore[attr-defined] # the signature has only a weak reference to it
    return run


def _pickle(path: Path) -> Run:
    import joblib

    estimator = joblib.load(path)
    return lambda inputs: {"probabilities": estimator.predict_proba(next(iter(inputs.values())))}


def _xgboost(path: Path) -> Run:
    import xgboost

    booster = xgboost.Booster(model_file=str(path))

    def run(inputs: Arrays) -> Arrays:
        (array,) = inputs.values()
        score = booster.predict(xgboost.DMatrix(array, feature_names=booster.feature_names))
        return {"probabilities": np.stack([1 - score, score], axis=-1) if score.ndim == 1 else score}

    return run
