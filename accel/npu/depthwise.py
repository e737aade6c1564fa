"""The depthwise unit: the kernel sizes that it supports in one pass, and the layout of its weights.

The unit uses the multipliers of the array. A DW pass visits every vector under its windows once: all rows of the array multiply
that vector, each by one tap of the kernel. The partial sums of a kernel row move along a chain of `columns` rows of the array,
and line buffers connect `rows` such chains (docs/spec/npu.md, N27). A larger kernel takes several passes; dilated kernels are
not supported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from accel.npu.arithmetic import Int8
from accel.npu.isa import ArrayPass, Shape
from accel.npu.profile import NpuProfile

LINE_COLUMNS = 64
"""Depth of a line buffer: the most vectors in a row of visits."""
ROW_OVERHEAD = 2
"""A row takes at least kernel columns + ROW_OVERHEAD cycles, so that a line buffer can be read back."""
REST_CYCLES = 3
"""Cycles at the end of a pass before its accumulators can be read back."""


Taps = range
"""Rows or columns of a kernel, one stride apart."""


@dataclass(frozen=True, slots=True)
class DepthwiseUnit:
    """The depthwise unit of an NPU: rows and columns of the largest kernel of one pass."""

    rows: int
    columns: int

    def weight_row(self, row: int, column: int, kernel_columns: int) -> int:
        """Return the row of the array that multiplies by the tap (row, column): a chain is filled from its end."""
        return row * self.columns + self.columns - kernel_columns + column

    def arrange(self, weights: Int8) -> Int8:
        """Arrange the weights [channels, kernel rows, kernel columns] of one pass as zero-padded rows [array rows, channels]."""
        channels, rows, columns = weights.shape
        arranged = np.zeros((rows, self.columns, channels), np.int8)
        arranged[:, self.columns - columns :] = weights.transpose(1, 2, 0)
        return arranged.reshape(-1, channels)

    def pieces(self, kernel: tuple[int, int], steps: tuple[int, int]) -> Iterator[tuple[Taps, Taps]]:
        """Split a kernel of any size (rows, columns) into the taps of single passes."""
        for rows in _split(kernel[0], steps[0], self.rows):
            for columns in _split(kernel[1], steps[1], self.columns):
                yield rows, columns


def _split(size: int, step: int, limit: int) -> Iterator[Taps]:
    """Split the taps of one axis into parts of at most `limit`.

    Unless the axis fits, a part holds taps with the same remainder modulo `step`, which skip the same vectors.
    """
    stride = 1 if step <= size <= limit else step
    for first in range(min(stride, size)):
        taps = range(first, size, stride)
        yield from (taps[at : at + limit] for at in range(0, len(taps), limit))


def depthwise_unit(profile: NpuProfile) -> DepthwiseUnit:
    """Return the depthwise unit of an NPU."""
    return DepthwiseUnit(3, 5) if profile.rows >= 16 else DepthwiseUnit(profile.rows // 4, 4)


def walk(shape: Shape, kernel: ArrayPass) -> tuple[int, int]:
    """Return the numbers of rows and columns of vectors that a DW pass visits."""
    row_period, column_period = shape.row_step // kernel.row_dilation, shape.column_step // kernel.column_dilation
    rows = (shape.rows - 1) * row_period + kernel.kernel_rows
    return rows, (shape.columns - 1) * column_period + kernel.kernel_columns
