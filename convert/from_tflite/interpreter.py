"""Run a TensorFlow Lite file in its own interpreter, on real numbers.

Inputs and outputs that are quantized in the file are float32 here, as in the graph: they are converted with the file's own scale
and zero point.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.frameworks import import_tensorflow
from edgewright.errors import ModelError, one_line

Arrays = list[npt.NDArray[Any]]


def tflite_outputs(path: Path, inputs: Arrays) -> Arrays:
    """Return the interpreter's outputs, in the order of the file; samples are run in groups of the file's own batch size.

    Raises:
        ModelError: the interpreter cannot load or run the file.
    """
    interpreter = _loaded(path)
    details = interpreter.get_input_details()
    sizes = [1 if entry["shape_signature"].size and entry["shape_signature"][0] < 0 else entry["shape"][0] for entry in details]
    size = max((int(size) for size in sizes), default=1)
    starts = range(0, len(inputs[0]), size)
    groups = [_run(interpreter, details, [_group(array, at, size) for array in inputs]) for at in starts]
    return [np.concatenate(arrays)[: len(inputs[0])] for arrays in zip(*groups, strict=True)]


def _group(array: npt.NDArray[Any], at: int, size: int) -> npt.NDArray[Any]:
    """Return `size` samples from `at` on; the last sample is repeated where there are fewer."""
    return array[np.minimum(np.arange(at, at + size), len(array) - 1)]


def _loaded(path: Path) -> Any:
    tf = import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter is to move to another package
        try:
            interpreter = tf.lite.Interpreter(str(path))
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{path}: TensorFlow Lite cannot load this file: {one_line(error)}") from error
    return interpreter


def _run(interpreter: Any, details: Any, inputs: Arrays) -> Arrays:
    resized = False
    for entry, array in zip(details, inputs, strict=True):
        if tuple(array.shape) != tuple(interpreter.get_tensor_details()[entry["index"]]["shape"]):
            interpreter.resize_tensor_input(entry["index"], array.shape)
            resized = True
    if resized:
        interpreter.allocate_tensors()
    for entry, array in zip(details, inputs, strict=True):
        interpreter.set_tensor(entry["index"], _stored(array, entry))
    interpreter.invoke()
    return [_real(interpreter.get_tensor(entry["index"]).copy(), entry) for entry in interpreter.get_output_details()]


def _stored(array: npt.NDArray[Any], entry: Any) -> npt.NDArray[Any]:
    scales = entry["quantization_parameters"]["scales"]
    if not len(scales):
        return np.asarray(array, entry["dtype"])
    limits, point = np.iinfo(entry["dtype"]), int(entry["quantization_parameters"]["zero_points"][0])
    return np.asarray(np.clip(np.rint(array / scales[0]) + point, limits.min, limits.max), entry["dtype"])


def _real(array: npt.NDArray[Any], entry: Any) -> npt.NDArray[Any]:
    scales = entry["quantization_parameters"]["scales"]
    if not len(scales):
        return array
    point = int(entry["quantization_parameters"]["zero_points"][0])
    return np.asarray((array.astype(np.int32) - point) * scales[0], np.float32)
