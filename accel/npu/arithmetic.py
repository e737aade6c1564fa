"""Arithmetic of the NPU, in NumPy integers; the RTL computes the same bits.

All rounding is to nearest, half to even, as ONNX defines QuantizeLinear. A value is rounded once on its way from accumulator to
int8, and once more where a residual is added (docs/spec/npu.md, N1-N15).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]

MULTIPLIER_BITS = 31
MAX_SHIFT = 62
RESIDUAL_MULTIPLIER_BITS = 15
MAX_RESIDUAL_SHIFT = 31
LARGEST_PRODUCT = 127 * 128
"""Largest magnitude of weight times activation."""
LARGEST_SHIFT = 15
"""Largest left shift of a dot product in number format mxint8."""


@dataclass(frozen=True, slots=True)
class Range:
    """Zero point of an output, and the values it is clamped to."""

    zero: int = 0
    low: int = -128
    high: int = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualScale:
    """Parameters of the addition of two int8 tensors of different scales (N10-N12)."""

    main_zero: int
    other_zero: int
    main_multiplier: int
    other_multiplier: int
    shift: int
    output: Range


def requantize(accumulators: Int32, bias: Int32, multiplier: Int32, shift: Int32, output: Range) -> Int8:
    """Convert accumulators to int8 (N5-N9).

    Adds the bias modulo 2^32, multiplies in 64 bits, rounds once, adds the zero point, saturates and clamps.
    """
    with np.errstate(over="ignore"):
        biased = accumulators + bias
    product = biased.astype(np.int64) * multiplier
    return _finish(_shift_half_to_even(product, shift), output)


def add_residual(main: Int8, other: Int8, scale: ResidualScale) -> Int8:
    """Add two int8 tensors of different scales with one rounding (N10-N12)."""
    total = (main.astype(np.int32) - scale.main_zero) * scale.main_multiplier
    total += (other.astype(np.int32) - scale.other_zero) * scale.other_multiplier
    return _finish(_shift_half_to_even(total, np.int32(scale.shift)), scale.output)


def _shift_half_to_even(values: npt.NDArray[np.signedinteger], shift: Int32 | np.int32) -> npt.NDArray[np.signedinteger]:
    # `doubled` keeps one fraction bit, which rounds up if a lower bit is set (`sticky`) or if that makes the result even.
    one = values.dtype.type(1)
    doubled = values >> (shift - 1)
    sticky = (values & ((one << (shift - 1)) - one)) != 0
    rounded: npt.NDArray[np.signedinteger] = (doubled + (sticky | ((doubled & 2) != 0))) >> 1
    return rounded


def _finish(values: npt.NDArray[np.signedinteger], output: Range) -> Int8:
    saturated = np.clip(values + output.zero, -128, 127)
    finished: Int8 = np.clip(saturated, output.low, output.high).astype(np.int8)
    return finished


def quantize_multiplier(scale: float) -> tuple[int, int]:
    """Return (multiplier, shift) with multiplier / 2^shift nearest to `scale` (N6).

    The multiplier is in [2^30, 2^31) wherever the shift allows it; a scale under about 2^-62 gives (0, 1).

    Raises:
        OverflowError: the scale exceeds 2^30.
    """
    fraction, exponent = math.frexp(scale)
    multiplier, shift = round(math.ldexp(fraction, MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, shift = multiplier >> 1, shift - 1
    if shift > MAX_SHIFT:
        multiplier, shift = multiplier >> min(shift - MAX_SHIFT, MULTIPLIER_BITS + 1), MAX_SHIFT
    if multiplier == 0:
        return 0, 1
    if shift < 1:
        raise OverflowError(f"a rescale of {scale} exceeds 2^30")
    return multiplier, shift


def residual_scale(main: tuple[float, int], other: tuple[float, int], output_scale: float, output: Range) -> ResidualScale:
    """Return the parameters that add tensors of (scale, zero point) `main` and `other`; the larger factor gets 15 bits (N11).

    Raises:
        OverflowError: a factor exceeds 2^14.
    """
    factors = (main[0] / output_scale, other[0] / output_scale)
    shift = min(RESIDUAL_MULTIPLIER_BITS - math.frexp(max(factors))[1], MAX_RESIDUAL_SHIFT)
    largest = (1 << RESIDUAL_MULTIPLIER_BITS) - 1
    if max(factors) * 2.0**shift > largest + 0.5:
        shift -= 1
    if shift < 1:
        raise OverflowError(f"residual factors of {factors[0]} and {factors[1]} exceed 2^14")
    multipliers = [min(round(math.ldexp(factor, shift)), largest) for factor in factors]
    return ResidualScale(
        main_zero=main[1],
        other_zero=other[1],
        main_multiplier=multipliers[0],
        other_multiplier=multipliers[1],
        shift=shift,
        output=output,
    )
