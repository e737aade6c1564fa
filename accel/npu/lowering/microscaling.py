"""Convert weights in OCP Microscaling blocks (MXINT8) to the form that the array executes.

A block of 32 weights along the input channels shares a power of two. The array adds integers. So every output channel gets one
exponent, its *base*, which is part of the channel's requantization. Every block gets a shift: its exponent minus the base.
Adding shifted products to an int32 accumulator is exact. Weights are rounded (to nearest, half to even) at compile time only, in
blocks whose exponent is too far below the largest one of the channel (docs/spec/npu.md, N140-N145).

The number format is that of OCP Microscaling Formats (MX) v1.0, 5.3.4 (MXINT8), with any power of two as a scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu.arithmetic import LARGEST_SHIFT, Int8

BLOCK = 32
"""Weights that share a scale (OCP MX v1.0, table 1)."""
FEWEST_CHANNELS = BLOCK // 2
"""A kernel with fewer input channels has one exponent per output channel."""
LARGEST_SUM = 1 << 22
"""Limit of a channel's sum of absolute weights: 128 times that, twice for the zero point, leaves half of int32 to the bias."""
_NONE = np.iinfo(np.int64).min
Exponents = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedWeights:
    """Real weights = elements x 2^(shifts + base).

    Elements are [outputs, inputs, rows, columns], shifts [outputs, blocks of inputs, rows, columns], bases [outputs].
    """

    elements: Int8
    shifts: Int8
    bases: Exponents

    def integers(self) -> npt.NDArray[np.int64]:
        """Return elements x 2^shift, the factors that the accumulators use, as int64 of the elements' shape."""
        return self.elements.astype(np.int64) << _spread(self.shifts.astype(np.int64), self.elements.shape[1])


def shift_weights(elements: Int8, exponents: Exponents) -> ShiftedWeights:
    """Compute bases and shifts of weights = elements x 2^exponents, both [outputs, inputs, rows, columns].

    The base of a channel is the smallest exponent of its blocks that meets two limits: it is at least the largest exponent minus
    15, and the sum of the absolute shifted weights is less than 2^22.
    """
    blocks = _block_exponents(elements, exponents)
    highest = blocks.max(axis=(1, 2, 3))
    bases = np.maximum(blocks.min(axis=(1, 2, 3)), highest - LARGEST_SHIFT)
    while True:
        shifted = _shifted(elements, exponents, blocks, bases)
        over = np.abs(shifted.integers()).sum(axis=(1, 2, 3)) >= LARGEST_SUM
        over &= bases < highest
        if not over.any():
            return shifted
        bases = bases + over


def _shifted(elements: Int8, exponents: Exponents, blocks: Exponents, bases: Exponents) -> ShiftedWeights:
    targets = np.maximum(blocks, bases[:, None, None, None])
    down = _spread(targets, elements.shape[1]) - exponents
    rounded = np.rint(np.ldexp(elements.astype(np.float64), -np.minimum(down, 64).astype(np.int32))).astype(np.int8)
    return ShiftedWeights(rounded, np.minimum(targets - bases[:, None, None, None], LARGEST_SHIFT).astype(np.int8), bases)


def _block_exponents(elements: Int8, exponents: Exponents) -> Exponents:
    """Return the largest exponent of each block's non-zero weights, or of the channel's if the kernel is too small for blocks."""
    largest = _block_maxima(np.where(elements == 0, _NONE, exponents))
    highest = largest.max(axis=(1, 2, 3), keepdims=True)
    highest = np.where(highest == _NONE, 0, highest)
    if elements.shape[1] < FEWEST_CHANNELS:
        return np.broadcast_to(highest, largest.shape).copy()
    blocks: Exponents = np.where(largest == _NONE, highest, largest)
    return blocks


def _block_maxima(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts = np.arange(0, values.shape[1], BLOCK)
    maxima: npt.NDArray[np.int64] = np.maximum.reduceat(values, starts, axis=1)
    return maxima


def _spread(blocks: npt.NDArray[np.int64], inputs: int) -> npt.NDArray[np.int64]:
    """Repeat each block's value for all of its inputs."""
    return np.repeat(blocks, BLOCK, axis=1)[:, :inputs]
