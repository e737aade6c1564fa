"""The arithmetic of `Preprocessing`, shared by calibration and by the scoring server."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.variant import Preprocessing
from edgewright.errors import SamplesError


def normalize(images: npt.NDArray[Any], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Return the graph's input (float32, NHWC) for RGB pixels 0..255 in NHWC that have the graph's size.

    Raises:
        SamplesError: the number of channels is not that of the preprocessing.
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
