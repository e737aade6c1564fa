"""Smoothing: move large channels of an activation into the weights, so that the range of the tensor fits the other channels too.

A product is unchanged if a channel of the activation is divided by a factor and the weights that read it are multiplied by it
(SmoothQuant, arXiv:2211.10438). The factors cost one multiplication per element, so a tensor gets them only if they lower the
predicted noise of its products by `LEAST_GAIN_DB`.

The noise of a product is predicted from the ranges of the channels on the samples:

    of the activation   step^2 / 12 times the sum of the squared weights
    of the weights      step^2 / 12 of each output channel times the mean of the squared activation
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantize.dynamic.rounding import round_without_saturation

LEAST_GAIN_DB = 1.5
LEVELS = 255
LARGEST_FACTOR = 64.0
_EXPONENTS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a channel's range that move into the weights."""

Float32 = npt.NDArray[np.float32]


@dataclass(slots=True)
class Channels:
    """The last axis of an activation, over all samples."""

    lowest: Float32
    highest: Float32
    """Shape [channels], as `lowest`."""
    energy: npt.NDArray[np.float64]
    """Mean square per channel."""


def smoothing_factors(channels: Channels, weight: Float32) -> Float32 | None:
    """Return one factor per channel to divide the activation by, or None if they gain too little.

    `weight` has the shape [channels, outputs]: all products of the activation side by side.
    """
    largest = np.maximum(np.abs(channels.lowest), np.abs(channels.highest))
    if not largest.any():
        return None
    least = predicted_noise(channels, weight) * 10 ** (-LEAST_GAIN_DB / 10)
    best: Float32 | None = None
    for exponent in _EXPONENTS:
        factors = _factors(largest, np.abs(weight).max(axis=1), exponent)
        noise = predicted_noise(_divided(channels, factors), weight * factors[:, None])
        if noise < least:
            least, best = noise, factors
    return best


def predicted_noise(channels: Channels, weight: Float32) -> float:
    """Return the expected squared error of all outputs for one row of the activation."""
    step = (max(float(channels.highest.max()), 0.0) - min(float(channels.lowest.min()), 0.0)) / LEVELS
    of_activation = step**2 / 12 * float(np.square(weight, dtype=np.float64).sum())
    scales = round_without_saturation(weight).scales
    of_weights = float(np.square(scales, dtype=np.float64).sum()) / 12 * float(channels.energy.sum())
    return of_activation + of_weights


def _factors(largest: Float32, weights: Float32, exponent: float) -> Float32:
    floor = 1e-5
    raw = np.maximum(largest, floor * largest.max()) ** exponent / np.maximum(weights, floor) ** (1 - exponent)
    factors = raw / np.exp(np.log(raw).mean())
    clipped: Float32 = np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR).astype(np.float32)
    return clipped


def _divided(channels: Channels, factors: Float32) -> Channels:
    return Channels(channels.lowest / factors, channels.highest / factors, channels.energy / factors**2)
