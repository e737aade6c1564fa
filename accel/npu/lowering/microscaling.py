"""Weights in OCP Microscaling blocks (MXINT8), brought into the form that the array executes.

A block of 32 weights along the input channels shares a power of two. The array adds up integers, so every output channel gets
one exponent, its *base*, that goes into the channel's requantisation, and every block a shift: its exponent less the base.
Adding shifted products to an int32 accumulator loses nothing. Rounding (to the nearest, half to even) happens only here, when
the program is made, and only to blocks that lie too far below the largest one of their channel (docs/spec/npu.md, N140-N145).

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
"""A kernel of fewer input channels than these has one exponent per output channel."""
LARGEST_SUM = 1 << 22
"""Of a channel's absolute weights. 128 times that, and as much again for the zero point, leave half of an int32 to the bias."""
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
        """Return elements x 2^shift, what one accumulator adds up."""
        return self.elements.astype(np.int64) << _spread(self.shifts.astype(np.int64), self.elements.shape[1])


def shift_weights(elements: Int8, exponents: Exponents) -> ShiftedWeights:
    """Find bases and shifts of weights = elements x 2^exponents, both [outputs, inputs, rows, columns].

    The base of a channel is the smallest exponent of its blocks, but no less than the largest less 15, and no less than what
    keeps the sum of the absolute shifted weights under 2^22.
    """
    blocks = _block_exponents(elements, exponents)
    highest = blocks.max(axis=(1, 2, 3))
    bases = np.maximum(blocks.min(axis=(1, 2, 3)), highest - LARGEST_SHIFT)
    while True:
        found = _shifted(elements, exponents, blocks, bases)
        over = np.abs(found.integers()).sum(axis=(1, 2, 3)) >= LARGEST_SUM
        over &= bases < highest
        if not over.any():
            return found
        bases = bases + over


def _shifted(elements: Int8, exponents: Exponents, blocks: Exponents, bases: Exponents) -> ShiftedWeights:
    wanted = np.maximum(blocks, bases[:, None, None, None])
    down = _spread(wanted, elements.shape[1]) - exponents
    rounded = np.rint(np.ldexp(elements.astype(np.float64), -np.minimum(down, 64).astype(np.int32))).astype(np.int8)
    return ShiftedWeights(rounded, np.minimum(wanted - bases[:, None, None, None], LARGEST_SHIFT).astype(np.int8), bases)


def _block_exponents(elements: Int8, exponents: Exponents) -> Exponents:
    """Return the largest exponent of each block that is not zero, or of the channel where a kernel is too small for blocks."""
    counted = _block_maxima(np.where(elements == 0, _NONE, exponents))
    highest = counted.max(axis=(1, 2, 3), keepdims=True)
    highest = np.where(highest == _NONE, 0, highest)
    if elements.shape[1] < FEWEST_CHANNELS:
        return np.broadcast_to(highest, counted.shape).copy()
    blocks: Exponents = np.where(counted == _NONE, highest, counted)
    return blocks


def _block_maxima(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts = np.arange(0, values.shape[1], BLOCK)
    maxima: npt.NDArray[np.int64] = np.maximum.reduceat(values, starts, axis=1)
    return maxima


def _spread(blocks: npt.NDArray[np.int64], inputs: int) -> npt.NDArray[np.int64]:
    """Repeat what a block has for every one of its inputs."""
    return np.repeat(blocks, BLOCK, axis=1)[:, :inputs]
