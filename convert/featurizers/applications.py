"""Networks of `keras.applications`, without weights, so that nothing is downloaded."""

from __future__ import annotations

from typing import Any

ImageSize = tuple[int, int]


def resnet50(keras: Any, image_size: ImageSize, classes: int) -> Any:
    """Return ResNet-50."""
    return _built(keras.applications.ResNet50, image_size, classes)


def resnet152(keras: Any, image_size: ImageSize, classes: int) -> Any:
    """Return ResNet-152."""
    return _built(keras.applications.ResNet152, image_size, classes)


def densenet121(keras: Any, image_size: ImageSize, classes: int) -> Any:
    """Return DenseNet-121."""
    return _built(keras.applications.DenseNet121, image_size, classes)


def vgg16(keras: Any, image_size: ImageSize, classes: int) -> Any:
    """Return VGG-16 with its two dense layers of 4,096, which belong to the featurizer."""
    return _built(keras.applications.VGG16, image_size, classes)


def mobilenet_v2(keras: Any, image_size: ImageSize, classes: int) -> Any:
    """Return MobileNetV2 of width 1.0."""
    return _built(keras.applications.MobileNetV2, image_size, classes)


def _built(application: Any, image_size: ImageSize, classes: int) -> Any:
    return application(weights=None, input_shape=(*image_size, 3), classes=classes)
