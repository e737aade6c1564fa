"""What each network's authors did to an image before it entered, as data, and the part of it that is arithmetic.

    caffe          BGR, channel means subtracted (ResNet, VGG, SSD)
    torch_style    RGB in 0..1, normalised by ImageNet's mean and deviation (DenseNet)
    signed         RGB in -1..1 (MobileNetV2)
    plain          RGB 0..255 as it is (ResNet-8)

Resizing and cropping are the scoring side's work; `normalize` is the rest, for those who train or calibrate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.variant import Preprocessing
from edgewright.errors import SamplesError

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


def for_image_size(preprocessing: Preprocessing, size: int, published: int) -> Preprocessing:
    """Return `preprocessing` for images of another size than the published one."""
    if size == published:
        return preprocessing
    if preprocessing.crop_height is None:
        return replace(preprocessing, resize_height=size, resize_width=size)
    return _cropped(preprocessing, size)


def normalize(images: npt.NDArray[Any], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn RGB pixels 0..255, NHWC and of the graph's size already, into what the graph takes.

    Raises:
        SamplesError: the images have no channel axis of three, where the preprocessing has an entry per channel.
    """
    if preprocessing.mean and (images.ndim != 4 or images.shape[-1] != len(preprocessing.mean)):
        raise SamplesError(
            f"images must have shape [N, height, width, {len(preprocessing.mean)}], but they have {list(images.shape)}"
        )
    ordered = images[..., ::-1] if preprocessing.color_order == "bgr" else images
    mean = np.asarray(preprocessing.mean or 0.0, np.float32)
    std = np.asarray(preprocessing.std or 1.0, np.float32)
    normalized: npt.NDArray[np.float32] = (ordered.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std
    return normalized


def _cropped(preprocessing: Preprocessing, crop: int) -> Preprocessing:
    resize = round(crop * _RESIZE_PER_CROP)
    return replace(preprocessing, resize_height=resize, resize_width=resize, crop_height=crop, crop_width=crop)
