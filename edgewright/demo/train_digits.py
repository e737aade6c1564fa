"""Train a small residual network on scikit-learn's digits (1,797 real scans, 8x8 pixels), then train its head again.

It runs as a separate program, so that only its process loads the training framework:

    python -m edgewright.demo.train_digits OUTPUT

It writes `digits-v1.keras`, `digits-v2.keras` (the same featurizer, a new head), the samples `calibration.npz` (from the
training part) and `heldout.npz` (not used in training) as float32 images 0..16 in NHWC with their labels, and the outputs of
each model for the held-out images: `source-v1.npz`, `source-v2.npz`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

SEED = 7
HELDOUT_COUNT = 360
CALIBRATION_COUNT = 256
BATCH = 64
EPOCHS = 10
HEAD_EPOCHS = 10
NORM_MOMENTUM = 0.9  # the running statistics must settle within a few hundred steps

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def main(output: Path) -> None:
    """Write both models and the samples."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.utils.set_random_seed(SEED)
    (train_images, train_labels), (heldout_images, heldout_labels) = load_digits()
    np.savez(output / "heldout.npz", image=heldout_images, labels=heldout_labels)
    np.savez(output / "calibration.npz", image=train_images[:CALIBRATION_COUNT], labels=train_labels[:CALIBRATION_COUNT])

    model = build_network(keras)
    fit(model, keras, train_images, train_labels, epochs=EPOCHS, rate=2e-3)
    save(model, output, "v1", heldout_images)

    train_head_again(model)
    fit(model, keras, train_images, train_labels, epochs=HEAD_EPOCHS, rate=1e-2)
    save(model, output, "v2", heldout_images)
    click.echo(f"trained {model.count_params()} parameters on {len(train_images)} images")


def load_digits() -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Return (training, held-out) images [count, 8, 8, 1] and labels, shuffled once with a fixed seed."""
    from sklearn.datasets import load_digits as load

    digits = load()
    order = np.random.default_rng(SEED).permutation(len(digits.images))
    images = digits.images.astype(np.float32)[order, :, :, np.newaxis]
    labels = digits.target.astype(np.int64)[order]
    return (images[HELDOUT_COUNT:], labels[HELDOUT_COUNT:]), (images[:HELDOUT_COUNT], labels[:HELDOUT_COUNT])


def build_network(keras: Any) -> Any:
    """Return the network: a stem and three residual blocks as featurizer, global pooling and one dense layer as head."""
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    features = layers.Rescaling(1 / 16, name="scale")(image)
    features = convolve(layers, features, 32, name="stem")
    for block, (filters, stride) in enumerate([(32, 1), (64, 2), (128, 2)], start=1):
        features = residual_block(layers, features, filters, stride, name=f"block{block}")
    features = layers.GlobalAveragePooling2D(name="pool")(features)
    scores = layers.Dense(10, activation="softmax", name="head")(features)
    return keras.Model(image, scores, name="digits")


def convolve(layers: Any, features: Any, filters: int, *, stride: int = 1, name: str) -> Any:
    """Return 3x3 convolution, batch normalisation, ReLU."""
    features = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(features)
    features = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(features)
    return layers.ReLU(name=f"{name}_relu")(features)


def residual_block(layers: Any, features: Any, filters: int, stride: int, *, name: str) -> Any:
    """Return a basic residual block (He et al. 2015, arXiv:1512.03385, figure 2) projected where shapes change."""
    shortcut = features
    if stride != 1 or features.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, strides=stride, use_bias=False, name=f"{name}_shortcut")(features)
    inside = convolve(layers, features, filters, stride=stride, name=f"{name}_1")
    inside = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_2_conv")(inside)
    inside = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_2_norm")(inside)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([inside, shortcut]))


def fit(model: Any, keras: Any, images: Images, labels: Labels, *, epochs: int, rate: float) -> None:
    """Train the trainable weights; the learning rate falls to zero along a cosine."""
    steps = epochs * -(-len(images) // BATCH)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(optimizer=keras.optimizers.Adam(decay), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=0)


def train_head_again(model: Any) -> None:
    """Freeze the featurizer and give the head new random weights, as for training on new labels."""
    for layer in model.layers:
        layer.trainable = layer.name == "head"
    head = model.get_layer("head")
    kernel, bias = head.get_weights()
    fresh = np.random.default_rng(SEED + 1).normal(0, 0.1, kernel.shape).astype(np.float32)
    head.set_weights([fresh, np.zeros_like(bias)])


def save(model: Any, output: Path, version: str, heldout_images: Images) -> None:
    """Write the model and its scores of the held-out images."""
    model.save(output / f"digits-{version}.keras")
    np.savez(output / f"source-{version}.npz", scores=model.predict(heldout_images, verbose=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
