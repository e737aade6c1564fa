"""The arithmetic of `Preprocessing`: one function for those who train and calibrate, and for the server that scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.variant import Preprocessing
from edgewright.errors import SamplesError


def normalize(images: npt.NDArray[Any], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn RGB pixels 0..255, NHWC and of the graph's size already, into what the graph takes (float32, NHWC).

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
