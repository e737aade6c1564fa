"""SSD300 on VGG-16 (Liu et al. 2015, arXiv:1512.02325): boxes and class scores from six feature maps.

    conv1_1 … conv4_3    VGG-16; conv4_3, L2-normalised and scaled per channel, is the first map (38x38)
    fc6, fc7             VGG's dense layers as convolutions, fc6 with dilation 6: the second map (19x19)
    conv6 … conv9        smaller maps: 10x10, 5x5, 3x3, 1x1
    boxes_i, classes_i   two convolutions per map, channels first: [box * 4 numbers, y, x] and [box * classes, y, x]

ONNX runtimes and accelerators compute maps channels first, so the device needs no transpose; the host takes rows per default box
as a view (in the order of `ssd_boxes.default_boxes`). Class scores are logits; softmax, decoding and non-maximum suppression run
on the host (ssd_boxes.py). All layers are part of Keras, so the model needs no custom objects.
"""

from __future__ import annotations

from typing import Any

from convert.featurizers.ssd_boxes import FEATURE_MAPS
from edgewright.errors import BadInputError

_VGG_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_CONV4_3_SCALE = 20.0
"""Initial value of the learned scale of the normalized map (Liu et al., section 3.1)."""


def ssd_vgg(keras: Any, image_size: tuple[int, int], classes: int) -> Any:
    """Return the network with twelve outputs; `classes` includes the background, which is class 0.

    Raises:
        BadInputError: there are fewer than two classes.
    """
    if classes < 2:
        raise BadInputError(f"ssd-vgg needs at least 2 classes, the background and one other, not {classes}")
    layers = keras.layers
    image = keras.Input((*image_size, 3), name="image")
    outputs: dict[str, Any] = {}
    for number, (features, feature_map) in enumerate(zip(_feature_maps(layers, image), FEATURE_MAPS, strict=True), start=1):
        outputs[f"boxes_{number}"] = _map(layers, features, feature_map.boxes * 4, name=f"boxes_{number}")
        outputs[f"classes_{number}"] = _map(layers, features, feature_map.boxes * classes, name=f"classes_{number}")
    return keras.Model(image, list(outputs.values()), name="ssd_vgg")


def _feature_maps(layers: Any, image: Any) -> list[Any]:
    conv4_3, conv5_3 = _vgg(layers, image)
    features = layers.MaxPooling2D(3, strides=1, padding="same", name="pool5")(conv5_3)
    features = _convolve(layers, features, 1024, 3, dilation_rate=6, name="fc6")
    fc7 = _convolve(layers, features, 1024, 1, name="fc7")
    conv6_2 = _halved(layers, fc7, 256, 512, name="conv6")
    conv7_2 = _halved(layers, conv6_2, 128, 256, name="conv7")
    conv8_2 = _trimmed(layers, conv7_2, 128, 256, name="conv8")
    conv9_2 = _trimmed(layers, conv8_2, 128, 256, name="conv9")
    return [_normalized(layers, conv4_3), fc7, conv6_2, conv7_2, conv8_2, conv9_2]


def _vgg(layers: Any, features: Any) -> tuple[Any, Any]:
    """Return conv4_3 and conv5_3; pooling rounds up, so that 75 becomes 38."""
    last_convolutions = []
    for block, (filters, count) in enumerate(_VGG_BLOCKS, start=1):
        for number in range(1, count + 1):
            features = _convolve(layers, features, filters, 3, name=f"conv{block}_{number}")
        last_convolutions.append(features)
        features = layers.MaxPooling2D(2, padding="same", name=f"pool{block}")(features) if block < 5 else features
    return last_convolutions[3], last_convolutions[4]


def _normalized(layers: Any, features: Any) -> Any:
    """Apply L2 normalization per position, and a learned scale per channel (a 1x1 depthwise convolution)."""
    unit = layers.UnitNormalization(axis=-1, name="conv4_3_unit")(features)
    initializer = {"class_name": "Constant", "config": {"value": _CONV4_3_SCALE}}
    return layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer=initializer, name="conv4_3_scale")(unit)


def _halved(layers: Any, features: Any, narrow: int, wide: int, *, name: str) -> Any:
    """Return a map of half the size, padded by one on every side as in the original; `same` pads differently for some sizes."""
    features = _convolve(layers, features, narrow, 1, name=f"{name}_1")
    features = layers.ZeroPadding2D(1, name=f"{name}_pad")(features)
    return _convolve(layers, features, wide, 3, strides=2, padding="valid", name=f"{name}_2")


def _trimmed(layers: Any, features: Any, narrow: int, wide: int, *, name: str) -> Any:
    """Return a map that is smaller by two rows and columns."""
    features = _convolve(layers, features, narrow, 1, name=f"{name}_1")
    return _convolve(layers, features, wide, 3, padding="valid", name=f"{name}_2")


def _convolve(layers: Any, features: Any, filters: int, kernel: int, *, name: str, padding: str = "same", **options: Any) -> Any:
    return layers.Conv2D(filters, kernel, padding=padding, activation="relu", name=name, **options)(features)


def _map(layers: Any, features: Any, channels: int, *, name: str) -> Any:
    """Return an output of `channels` numbers per position, channels first."""
    scores = layers.Conv2D(channels, 3, padding="same", name=f"{name}_conv")(features)
    return layers.Permute((3, 1, 2), name=name)(scores)
