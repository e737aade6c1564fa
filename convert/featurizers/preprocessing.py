"""The published preprocessing of each network, as data.

    caffe          BGR, channel means subtracted (ResNet, VGG, SSD)
    torch_style    RGB in 0..1, normalized by ImageNet's mean and standard deviation (DenseNet)
    signed         RGB in -1..1 (MobileNetV2)
    plain          RGB 0..255, unchanged (ResNet-8)

The scoring server resizes and crops (edgewright/serving/variants/images.py). `normalize` does the arithmetic, for training and
calibration.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.names import nearest
from edgewright.contracts.preprocessing import normalize
from edgewright.contracts.variant import Preprocessing
from edgewright.errors import BadInputError, NotFoundError

__all__ = ["MODES", "caffe", "for_image_size", "normalize", "plain", "read_preprocessing", "signed", "torch_style"]

_RESIZE_PER_CROP = 256 / 224
"""ImageNet's convention: resize to 256, crop the central 224."""


def caffe(crop: int) -> Preprocessing:
    """Return the preprocessing to BGR with the channel means of ImageNet subtracted."""
    return _cropped(Preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), color_order="bgr"), crop)


def torch_style(crop: int) -> Preprocessing:
    """Return the preprocessing to RGB in 0..1, minus ImageNet's mean, divided by its deviation."""
    return _cropped(Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), crop)


def signed(crop: int) -> Preprocessing:
    """Return the preprocessing to RGB in -1..1."""
    return _cropped(Preprocessing(scale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)), crop)


def plain(size: int) -> Preprocessing:
    """Return the preprocessing to RGB 0..255, resized only."""
    return Preprocessing(resize_height=size, resize_width=size)


def _cropped(preprocessing: Preprocessing, crop: int) -> Preprocessing:
    resize = round(crop * _RESIZE_PER_CROP)
    return replace(preprocessing, resize_height=resize, resize_width=resize, crop_height=crop, crop_width=crop)


MODES = {
    mode: replace(full, resize_height=None, resize_width=None, crop_height=None, crop_width=None)
    for mode, full in {"caffe": caffe(224), "torch": torch_style(224), "tf": signed(224), "none": plain(224)}.items()
}
"""Modes by their names in `keras.applications`, without resizing or cropping."""


def read_preprocessing(text: str) -> Preprocessing:
    """Return the mode called `text`, or the contents of the JSON file `text` (fields of `Preprocessing`).

    Raises:
        NotFoundError: there is no such mode or file.
        BadInputError: the file is not valid.
    """
    if text in MODES:
        return MODES[text]
    if not Path(text).is_file():
        raise NotFoundError(f"--preprocessing {text}: no such mode or JSON file{nearest(text, MODES)}")
    return wire.decode(Path(text).read_bytes(), Preprocessing, what=text, error=BadInputError)


def for_image_size(preprocessing: Preprocessing, size: int, published: int) -> Preprocessing:
    """Return `preprocessing`, adapted from the published image size to `size`."""
    if size == published:
        return preprocessing
    if preprocessing.crop_height is None:
        return replace(preprocessing, resize_height=size, resize_width=size)
    return _cropped(preprocessing, size)
