"""TensorFlow Lite files, made by TensorFlow's converter."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.frameworks import import_tensorflow
from convert.from_tflite.interpreter import tflite_outputs
from convert.from_tflite.reader import read_tflite
from convert.passes.simplify import simplify
from tests.support.convert_networks import folder, noise, run_graph

Array = npt.NDArray[Any]
Function = Callable[..., Any]


def weights(*shape: int) -> Array:
    """Return constants that depend on the shape only."""
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape).astype(np.float32)


@functools.cache
def tensorflow() -> Any:
    """Import TensorFlow once, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_tensorflow()


def tflite(function: Function, shape: Sequence[int], mode: str = "float", *, batch: int | None = None) -> bytes:
    """Return the file of a function of one image.

    Args:
        function: takes and returns tensors.
        shape: sizes of the input after the batch.
        mode: `float`, `float16`, `dynamic range`, `int8` (float ends), `int8 ends`, `uint8 ends`, `int16`.
        batch: number of samples; None: free.
    """
    tf = tensorflow()
    spec = tf.TensorSpec((batch, *shape), tf.float32, name="image")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([tf.function(function).get_concrete_function(spec)])
    if mode != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if "int" in mode:
        samples = noise(20, 1, *shape)
        converter.representative_dataset = lambda: ([sample] for sample in samples)
    if mode == "int16":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    if mode.endswith("ends"):
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        dtype = tf.int8 if mode.startswith("int8") else tf.uint8
        converter.inference_input_type = converter.inference_output_type = dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content: bytes = converter.convert()
    return content


def outputs_of(content: bytes, inputs: Array) -> tuple[list[Array], list[Array]]:
    """Return the outputs of the converted graph and of the interpreter."""
    path = folder() / "operators.tflite"
    path.write_bytes(content)
    model = read_tflite(path).model
    simplify(model, check_each=True)
    return list(run_graph(model, inputs)), tflite_outputs(path, [inputs])
