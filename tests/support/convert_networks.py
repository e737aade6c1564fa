"""Models for several tests, built once per session from scikit-learn's digits or from a fixed seed."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from convert.conversion import ConvertOptions, convert_model
from convert.from_keras.reader import graph_of
from convert.passes.simplify import simplify
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz

Array = npt.NDArray[Any]


@functools.cache
def keras() -> Any:
    """Import Keras once, without its warnings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras as module
        import tensorflow  # noqa: F401
    return module


@functools.cache
def folder() -> Path:
    """Return a directory for the whole session."""
    directory = tempfile.TemporaryDirectory(prefix="edgewright-tests-")
    _DIRECTORIES.append(directory)
    return Path(directory.name)


_DIRECTORIES: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def digits() -> tuple[Array, Array]:
    """Return scikit-learn's digits as images in 0..1 and their labels."""
    from sklearn.datasets import load_digits

    bundled = load_digits()
    images: Array = (bundled.images / 16).astype(np.float32)[..., None]
    return images, bundled.target.astype(np.int64)


@functools.cache
def training_samples() -> Path:
    """Return a file with the samples for training and calibration."""
    images, labels = digits()
    path = folder() / "training.npz"
    write_npz(path, {"image": images[:1400], "labels": labels[:1400]})
    return path


@functools.cache
def held_out_samples() -> Path:
    """Return a file with held-out samples."""
    images, labels = digits()
    path = folder() / "held_out.npz"
    write_npz(path, {"image": images[1400:], "labels": labels[1400:]})
    return path


@functools.cache
def trained() -> Any:
    """Train a small residual network on the digits."""
    module = keras()
    layers = module.layers
    module.utils.set_random_seed(7)
    image = module.Input((8, 8, 1), name="image")
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    y = layers.Conv2D(12, 3, padding="same", name="block")(x)
    y = layers.ReLU(name="block_relu")(layers.BatchNormalization(name="block_norm")(y))
    x = layers.MaxPooling2D(2, name="pool")(layers.Add(name="join")([x, y]))
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    model = module.Model(image, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")
    images, labels = digits()
    model.compile(module.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
    model.fit(images[:1400], labels[:1400], epochs=5, batch_size=64, verbose=0)
    return model


@functools.cache
def keras_file() -> Path:
    """Return the trained network as a `.keras` file."""
    return saved(trained(), folder() / "digits.keras")


@functools.cache
def retrained_file() -> Path:
    """Return the same network with another head, as after retraining the head."""
    module = keras()
    model = module.models.clone_model(trained())
    model.set_weights(trained().get_weights())
    layer = model.get_layer("classes")
    layer.set_weights([layer.get_weights()[0] * 1.1, layer.get_weights()[1] + 0.1])
    return saved(model, folder() / "retrained.keras")


@functools.cache
def digits_build() -> BuildDirectory:
    """Return the build of the trained network; tests that change a build copy it first."""
    labels = tuple(str(digit) for digit in range(10))
    return convert_model(keras_file(), folder() / "build", ConvertOptions(samples=held_out_samples(), labels=labels))


def saved(model: Any, path: Path) -> Path:
    """Save a Keras model, without its warnings about NumPy 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def converted(model: Any) -> ir.Model:
    """Return the simplified graph of a Keras model; ONNX's checker runs after each pass."""
    graph = graph_of(model)
    simplify(graph, check_each=True)
    return graph


def run_graph(graph: ir.Model, *inputs: Array) -> list[Array]:
    """Run a graph in memory."""
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    outputs: list[Array] = session.run(
        None, {given.name: array for given, array in zip(session.get_inputs(), inputs, strict=True)}
    )
    return outputs


def run_keras(model: Any, *inputs: Array) -> list[Array]:
    """Run a Keras model in inference mode."""
    outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
    return [np.asarray(output) for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def relative_difference(actual: Array, expected: Array) -> float:
    """Return the largest difference over the largest expected value."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def noise(*shape: int, seed: int = 0) -> Array:
    """Return normally distributed numbers from a fixed seed."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shaken(model: Any) -> Any:
    """Give a model random weights: initial weights, such as zero biases, hide mistakes."""
    generator = np.random.default_rng(3)
    model.set_weights([_shaken(weight, generator) for weight in model.get_weights()])
    return model


def _shaken(weight: Array, generator: np.random.Generator) -> Array:
    numbers = np.abs(generator.normal(size=weight.shape)) + 0.2 if weight.ndim <= 1 else generator.normal(size=weight.shape) * 0.3
    return numbers.astype(weight.dtype)
