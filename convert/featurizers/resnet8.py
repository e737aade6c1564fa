"""ResNet-8 of MLPerf Tiny's image classification: a stem and three residual stacks of 16, 32 and 64 filters."""

from __future__ import annotations

from typing import Any


def resnet8(keras: Any, image_size: tuple[int, int], classes: int) -> Any:
    """Return ResNet-8; convolutions before batch normalization have biases, as in the reference implementation."""
    layers = keras.layers
    image = keras.Input((*image_size, 3), name="image")
    features = _convolve(layers, image, 16, name="stem")
    features = layers.ReLU(name="stem_relu")(features)
    for stack, (filters, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        features = _residual_stack(layers, features, filters, stride, name=f"stack{stack}")
    features = layers.AveragePooling2D((features.shape[1], features.shape[2]), name="pool")(features)
    features = layers.Flatten(name="features")(features)
    scores = layers.Dense(classes, activation="softmax", kernel_initializer="he_normal", name="predictions")(features)
    return keras.Model(image, scores, name="resnet8")


def _residual_stack(layers: Any, features: Any, filters: int, stride: int, *, name: str) -> Any:
    residual = _convolve(layers, features, filters, stride=stride, name=f"{name}_1")
    residual = layers.ReLU(name=f"{name}_1_relu")(residual)
    residual = _convolve(layers, residual, filters, name=f"{name}_2")
    shortcut = features
    if stride != 1:
        shortcut = layers.Conv2D(
            filters, 1, strides=stride, padding="same", kernel_initializer="he_normal", name=f"{name}_shortcut"
        )(features)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([shortcut, residual]))


def _convolve(layers: Any, features: Any, filters: int, *, stride: int = 1, name: str) -> Any:
    """Apply a 3x3 convolution and batch normalization."""
    features = layers.Conv2D(filters, 3, strides=stride, padding="same", kernel_initializer="he_normal", name=f"{name}_conv")(
        features
    )
    return layers.BatchNormalization(name=f"{name}_norm")(features)
