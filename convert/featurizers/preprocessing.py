"""What each network's authors did to an image before it entered, as data, and the part of it that is arithmetic.

    caffe          BGR, channel means subtracted (ResNet, VGG, SSD)
    torch_style    RGB in 0..1, normalised by ImageNet's mean and deviation (DenseNet)
    signed         RGB in -1..1 (MobileNetV2)
    plain          RGB 0..255 as it is (ResNet-8)

Resizing and cropping are the scoring side's work (edgewright/serving/images.py); `normalize` is the rest, for those who train or
calibrate.
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
"""ImageNet's habit: resize to 256, cut the 224 in the middle."""


def caffe(crop: int) -> Preprocessing:
    """Return BGR with the channel means of ImageNet subtracted."""
    return _cropped(Preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), color_order="bgr"), crop)


def torch_style(crop: int) -> Preprocessing:
    """Return RGB in 0..1, less ImageNet's mean, over its deviation."""
    return _cropped(Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), crop)


def signed(crop: int) -> Preprocessing:
    """Return RGB in -1..1."""
    return _cropped(Preprocessing(scale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)), crop)


def plain(size: int) -> Preprocessing:
    """Return RGB 0..255, resized and nothing else."""
    return Preprocessing(resize_height=size, resize_width=size)


def _cropped(preprocessing: Preprocessing, crop: int) -> Preprocessing:
    resize = round(crop * _RESIZE_PER_CROP)
    return replace(preprocessing, resize_height=resize, resize_width=resize, crop_height=crop, crop_width=crop)


MODES = {
    mode: replace(full, resize_height=None, resize_width=None, crop_height=None, crop_width=None)
    for mode, full in {"caffe": caffe(224), "torch": torch_style(224), "tf": signed(224), "none": plain(224)}.items()
}
"""By the names that `keras.applications` gives them, for images of whatever size the graph takes."""


def read_preprocessing(text: str) -> Preprocessing:
    """Return the mode called `text`, or what the JSON file `text` says (the fields of `Preprocessing`).

    Raises:
        NotFoundError: it is neither.
        BadInputError: the file says something impossible.
    """
    if text in MODES:
        return MODES[text]
    if not Path(text).is_file():
        raise NotFoundError(f"--preprocessing {text}: no such mode or JSON file{nearest(text, MODES)}")
    return wire.decode(Path(text).read_bytes(), Preprocessing, what=text, error=BadInputError)


def for_image_size(preprocessing: Preprocessing, size: int, published: int) -> Preprocessing:
    """Return `preprocessing` for images of another size than the published one."""
    if size == published:
        return preprocessing
    if preprocessing.crop_height is None:
        return replace(preprocessing, resize_height=size, resize_width=size)
    return _cropped(preprocessing, size)
