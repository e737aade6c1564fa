"""The networks of MLPerf Tiny v1.3 that have no public weights in a package: geometry, stand-in samples, and two builders.

A network is a list of layers, from which `onnx_network` makes a graph with random weights and `keras_network` a model to train.
ResNet-8 and the ToyCar autoencoder are read from MLPerf's own files (benchmarks/mlperf_tiny.py).

The samples are stand-ins: the handwritten digits of scikit-learn, stretched to the shape of each network's input. They show
whether the quantized network keeps the accuracy of the trained one; they say nothing about keywords, people or wake words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.networks.npu_networks import INPUT, Network

Float = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
HELD_OUT = 400
"""Samples at the end of the data set that are not used for training or calibration."""


@dataclass(frozen=True, slots=True)
class TinyLayer:
    """A convolution with batch normalization and ReLU; `filters` is 0 for a depthwise one."""

    filters: int
    kernel: tuple[int, int]
    step: int = 1
    padding: Literal["same", "valid"] = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyNetwork:
    """A classifier: convolutions, the average of each plane, and a dense layer."""

    name: str
    benchmark: str
    shape: tuple[int, int, int]
    """Height, width and channels."""
    layers: tuple[TinyLayer, ...]
    classes: int
    samples: Callable[[], tuple[Float, Labels]]


def digits(shape: tuple[int, int, int], repeats: tuple[int, int]) -> tuple[Float, Labels]:
    """Return the digits between -1 and 1, every pixel repeated, in the middle of images of `shape`; and their numbers."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) / 8 - 1).astype(np.float32)
    large = images.repeat(repeats[0], axis=1).repeat(repeats[1], axis=2)
    free = (shape[0] - large.shape[1], shape[1] - large.shape[2])
    margins = [(0, 0), *((room // 2, room - room // 2) for room in free)]
    padded = np.pad(large, margins, constant_values=-1.0)
    noise = np.random.default_rng(0).standard_normal((*padded.shape, shape[2]), dtype=np.float32)
    return padded[..., None] + np.float32(0.1) * noise, labels.astype(np.int64)


def keywords() -> tuple[Float, Labels]:
    """Return a digit per sample: ten of the twelve classes of the keyword network occur."""
    return digits((49, 10, 1), (6, 1))


def persons() -> tuple[Float, Labels]:
    """Return digits of five and more as one class, smaller ones as the other."""
    images, labels = digits((96, 96, 3), (12, 12))
    return images, (labels >= 5).astype(np.int64)


def wake_words() -> tuple[Float, Labels]:
    """Return the digit 7 as the wake word, nothing but noise as silence, and all other digits as other words."""
    images, labels = digits((30, 40, 1), (3, 5))
    silent = labels == 3
    images[silent] = np.random.default_rng(1).normal(-1, 0.1, images[silent].shape)
    kinds = np.where(labels == 7, 0, np.where(silent, 1, 2)).astype(np.int64)
    return images.reshape(-1, 30, 1, 40), kinds


def _separable(filters: int, kernel: tuple[int, int] = (3, 3), step: int = 1, padding: Any = "same") -> tuple[TinyLayer, ...]:
    return TinyLayer(0, kernel, step, padding), TinyLayer(filters, (1, 1))


def _separables(*blocks: tuple[int, int]) -> tuple[TinyLayer, ...]:
    return tuple(layer for filters, step in blocks for layer in _separable(filters, step=step))


DS_CNN = TinyNetwork(
    name="DS-CNN",
    benchmark="keyword spotting",
    shape=(49, 10, 1),
    layers=(TinyLayer(64, (10, 4), 2), *_separables(*[(64, 1)] * 4)),
    classes=12,
    samples=keywords,
)
MOBILENET = TinyNetwork(
    name="MobileNetV1 0.25",
    benchmark="visual wake words",
    shape=(96, 96, 3),
    layers=(
        TinyLayer(8, (3, 3), 2),
        *_separables((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)),
    ),
    classes=2,
    samples=persons,
)
WAKE_WORD = TinyNetwork(
    name="1-D DS-CNN",
    benchmark="streaming wake word",
    shape=(30, 1, 40),
    layers=tuple(
        layer
        for filters, length in ((128, 3), (64, 5), (64, 10), (32, 15))
        for layer in _separable(filters, (length, 1), padding="valid")
    ),
    classes=3,
    samples=wake_words,
)
NETWORKS = (DS_CNN, MOBILENET, WAKE_WORD)


def onnx_network(tiny: TinyNetwork) -> tuple[Network, onnx.ModelProto]:
    """Return the network with random weights as a graph of planes [N, channels, height, width], batch normalization folded in."""
    height, width, channels = tiny.shape
    network, x = Network(channels, height, width), INPUT
    for layer in tiny.layers:
        pads = _pads((height, width), layer)
        outputs, group = layer.filters or channels, 1 if layer.filters else channels
        x = network.conv(x, channels, outputs, layer.kernel, strides=[layer.step] * 2, pads=pads, group=group)
        x, channels = network.add("Relu", x), outputs
        reach = [size + before + after for size, before, after in zip((height, width), pads[:2], pads[2:], strict=True)]
        height, width = ((size - kernel) // layer.step + 1 for size, kernel in zip(reach, layer.kernel, strict=True))
    features = network.add("Flatten", network.add("AveragePool", x, kernel_shape=[height, width]))
    return network, network.model(network.add("Softmax", network.gemm(features, channels, tiny.classes)))


def _pads(plane: tuple[int, int], layer: TinyLayer) -> list[int]:
    """Return the padding of Keras: with `same` the result has the size of the input over the step, rounded up."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    both = [
        max(0, (-(-size // layer.step) - 1) * layer.step + kernel - size)
        for size, kernel in zip(plane, layer.kernel, strict=True)
    ]
    return [*(total // 2 for total in both), *(total - total // 2 for total in both)]


def keras_network(keras: Any, tiny: TinyNetwork) -> Any:
    """Return the network as a Keras model."""
    layers, image = keras.layers, keras.Input(tiny.shape, name="image")
    x = image
    for layer in tiny.layers:
        options = {"strides": layer.step, "padding": layer.padding, "use_bias": False}
        x = (
            layers.Conv2D(layer.filters, layer.kernel, **options)(x)
            if layer.filters
            else layers.DepthwiseConv2D(layer.kernel, **options)(x)
        )
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))  # few steps: the averages must follow
    pooled = layers.Flatten()(layers.AveragePooling2D(x.shape[1:3])(x))
    return keras.Model(image, layers.Dense(tiny.classes, activation="softmax")(pooled), name=tiny.name.lower().replace(" ", "_"))
