"""Addresses of the activation vectors that an array pass visits, in order, and which of them are padding.

The address generator is four nested counters: tap row, tap column, output row, output column. For every visit it determines
whether it is outside the input plane, so neither im2col nor padding is ever stored (docs/spec/npu.md, N30-N34).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu.isa import ArrayPass, Shape

ADDRESS_MASK = 0xFFFF


@dataclass(frozen=True, slots=True)
class Visits:
    """Addresses that a pass visits, [taps, positions], and a mask that is false for padding."""

    addresses: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and the last address that is read, or None if all visits are padding."""
        read = self.addresses[self.inside]
        return (int(read.min()), int(read.max())) if read.size else None


def visits(shape: Shape, instruction: ArrayPass) -> Visits:
    """Return all visits of one pass, in the order of the counters."""
    tap_rows, tap_columns = np.arange(instruction.kernel_rows), np.arange(instruction.kernel_columns)
    rows, columns = np.arange(shape.rows), np.arange(shape.columns)
    row_address = _grid(tap_rows * instruction.tap_row_pitch, rows * shape.row_pitch)
    column_address = _grid(tap_columns * instruction.tap_column_pitch, columns * shape.column_pitch)
    row = instruction.top + _grid(tap_rows * instruction.row_dilation, rows * shape.row_step)
    column = instruction.left + _grid(tap_columns * instruction.column_dilation, columns * shape.column_step)
    addresses = (instruction.base + _cross(row_address, column_address)) & ADDRESS_MASK
    row_inside, column_inside = (row >= 0) & (row < shape.height), (column >= 0) & (column < shape.width)
    inside = _cross(row_inside.astype(np.int64), column_inside.astype(np.int64)) == 2
    taps, positions = instruction.kernel_rows * instruction.kernel_columns, shape.rows * shape.columns
    return Visits(addresses.reshape(taps, positions), inside.reshape(taps, positions))


def visited_span(shape: Shape, instruction: ArrayPass) -> tuple[int, int] | None:
    """Return `visits(...).span` without computing all visits: addresses increase along both axes, so the corners suffice."""
    rows = _inside(instruction.top, instruction.row_dilation, instruction.kernel_rows, shape.row_step, shape.rows, shape.height)
    columns = _inside(
        instruction.left, instruction.column_dilation, instruction.kernel_columns, shape.column_step, shape.columns, shape.width
    )
    if not rows or not columns:
        return None
    down = [tap * instruction.tap_row_pitch + at * shape.row_pitch for tap, at in rows]
    across = [tap * instruction.tap_column_pitch + at * shape.column_pitch for tap, at in columns]
    first, last = instruction.base + min(down) + min(across), instruction.base + max(down) + max(across)
    if first // (ADDRESS_MASK + 1) != last // (ADDRESS_MASK + 1):
        return visits(shape, instruction).span  # the addresses wrap around
    return first & ADDRESS_MASK, last & ADDRESS_MASK


def _inside(start: int, dilation: int, taps: int, step: int, count: int, size: int) -> list[tuple[int, int]]:
    """Return (tap, position) pairs of one axis inside the plane: for each tap the first and the last position."""
    pairs = []
    for tap in range(taps):
        at = start + tap * dilation
        if step == 0:
            pairs += [(tap, 0), (tap, count - 1)] if 0 <= at < size else []
            continue
        first, last = max(0, -(at // step)), min(count - 1, (size - 1 - at) // step)
        pairs += [(tap, first), (tap, last)] if first <= last else []
    return pairs


def _grid(taps: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    grid: npt.NDArray[np.int64] = taps[:, None] + steps[None, :]
    return grid


def _cross(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Add [tap rows, rows] and [tap columns, columns] into [tap rows, tap columns, rows, columns]."""
    crossed: npt.NDArray[np.int64] = rows[:, None, :, None] + columns[None, :, None, :]
    return crossed
