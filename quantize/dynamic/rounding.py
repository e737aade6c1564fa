"""Round weights to int8 so that no x86 processor saturates their products with unsigned bytes.

Without VNNI, x86 multiplies bytes with `vpmaddubsw`, which adds two neighbouring products in 16 bits. For any activations the sum
fits if two neighbouring weights of the same sign add up to at most 128: 255 * 128 = 32,640. The usual remedy, weights of seven
bits, halves every weight; here the scale grows only by as much as the largest pair requires, and all eight bits stay in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LARGEST = 127
LARGEST_PAIR = 127
"""Largest sum of a pair before rounding, in units of the scale; rounding adds at most one."""

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Rounded:
    """Weights as integers: `elements * scales` with one scale per output channel."""

    elements: Int8
    """Shape [..., inputs, outputs]."""
    scales: Float32
    """Shape [..., outputs]."""

    def expanded(self) -> Float32:
        """Return the weights that the integers stand for."""
        numbers: Float32 = self.elements * self.scales[..., None, :]
        return numbers


def round_without_saturation(weight: Float32) -> Rounded:
    """Round a weight of shape [..., inputs, outputs], whose products are summed over the inputs."""
    pairs = weight[..., :-1, :] + weight[..., 1:, :]
    same_sign = np.signbit(weight[..., :-1, :]) == np.signbit(weight[..., 1:, :])
    largest_pair = np.abs(pairs, where=same_sign, out=np.zeros_like(pairs)).max(axis=-2, initial=0.0)
    scales = np.maximum(np.abs(weight).max(axis=-2) / LARGEST, largest_pair / LARGEST_PAIR)
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)
    return Rounded(np.rint(weight / scales[..., None, :]).astype(np.int8), scales)
