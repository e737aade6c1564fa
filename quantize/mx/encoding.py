"""MXINT8 of the OCP Microscaling Formats (MX) Specification v1.0: numbers in blocks of 32 that share a power of two.

An element is an int8 in units of 1/64 of its block's scale (the format's implicit scale of 2^-6, section 5.3). The scale is the
largest power of two up to the largest magnitude of the block (section 6.3: floor(log2(max)) minus the largest exponent of the
element format, which is 0). Elements are rounded half to even and saturate at 127 and -127. -128 is unused, as section 5.3
allows: the range is then symmetric, as the NPU's multipliers require.

The exponent of a block here is that of one unit, `value = element * 2**exponent`; the E8M0 byte of the specification is that plus
133.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK = 32
LARGEST = 127
FRACTION_BITS = 6
LOWEST_EXPONENT = -126
"""2^-126 is float32's smallest normal number; runtimes may flush smaller scales to zero."""

Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Numbers in blocks along `axis`."""

    elements: Int8
    """Same shape as the numbers."""
    exponents: Int8
    """Same shape, but with one entry per block along `axis`; the last block may be short."""
    axis: int


def encode(numbers: Float32, axis: int, lowest: npt.ArrayLike = LOWEST_EXPONENT) -> Blocks:
    """Round finite numbers to MXINT8 in blocks along `axis`, with exponents of at least `lowest` (a scalar, or one per block).

    The error is at most half a unit, or one unit with saturation. Powers of two are exact unless the exponent of their block
    is raised to `lowest`.
    """
    length = numbers.shape[axis]
    padded = np.zeros((*np.moveaxis(numbers, axis, -1).shape[:-1], -(-length // BLOCK) * BLOCK), np.float32)
    padded[..., :length] = np.moveaxis(numbers, axis, -1)
    blocks = padded.reshape(*padded.shape[:-1], -1, BLOCK)
    _, above = np.frexp(np.abs(blocks).max(axis=-1))  # 2**(above - 1) <= max < 2**above
    floor = np.broadcast_to(np.asarray(lowest, np.int64), np.moveaxis(above, -1, axis).shape)
    exponents = np.maximum(above - 1 - FRACTION_BITS, np.maximum(np.moveaxis(floor, axis, -1), LOWEST_EXPONENT))
    counts = np.clip(np.rint(np.ldexp(blocks, -exponents[..., None])), -LARGEST, LARGEST).astype(np.int8)
    elements = counts.reshape(padded.shape)[..., :length]
    return Blocks(
        np.ascontiguousarray(np.moveaxis(elements, -1, axis)),
        np.ascontiguousarray(np.moveaxis(exponents.astype(np.int8), -1, axis)),
        axis,
    )


def decode(blocks: Blocks) -> Float32:
    """Return the exact values of blocks as float32."""
    length = blocks.elements.shape[blocks.axis]
    spread = np.repeat(blocks.exponents, BLOCK, axis=blocks.axis).take(range(length), axis=blocks.axis)
    numbers: Float32 = np.ldexp(blocks.elements.astype(np.float32), spread)
    return numbers
