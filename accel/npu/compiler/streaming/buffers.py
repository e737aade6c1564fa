"""Constants in external memory, and ring buffers in the memories of the chip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.arithmetic import Int32
from accel.npu.compiler.streaming.order import Transfer

ALIGNMENT_WORDS = 4


class Constants:
    """Growing list of 32-bit words at the beginning of external memory."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint32]] = []
        self.words = 0

    def add(self, values: npt.NDArray[np.signedinteger] | isa.Words) -> int:
        """Append an array; return the address of its first word."""
        begin = self.words
        words = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
        aligned = np.pad(words, (0, -len(words) % ALIGNMENT_WORDS))
        self._parts.append(aligned)
        self.words += len(aligned)
        return begin

    def add_parameters(self, parameters: Int32) -> int:
        """Append parameter groups, padded from three words per lane to four; return the address of the first word."""
        return self.add(np.pad(parameters, ((0, 0), (0, 0), (0, 1))))

    def array(self) -> npt.NDArray[np.uint32]:
        """Return all words."""
        return np.concatenate([np.zeros(0, np.uint32), *self._parts])


class RingBuffer:
    """Ring buffer of lines in the weight or parameter memory; each line records the last pass or VEC that uses it."""

    def __init__(self, lines: int) -> None:
        self._last_use = np.full(lines, -1, np.int64)
        self._at = 0

    @property
    def lines(self) -> int:
        """Number of lines."""
        return len(self._last_use)

    def allocate(self, lines: int) -> int:
        """Allocate contiguous lines; return the first one."""
        first = self._at if self._at + lines <= self.lines else 0
        self._at = first + lines
        return first

    def last_use(self, first: int, lines: int) -> int:
        """Return the number of the last pass or VEC that uses the current contents of the lines, -1 if none."""
        return int(self._last_use[first : first + lines].max())

    def use(self, first: int, lines: int, number: int) -> None:
        """Record that the pass or VEC of this number uses the lines."""
        self._last_use[first : first + lines] = number


@dataclass(frozen=True, slots=True)
class Resident:
    """A block of weight or parameter lines in on-chip memory.

    `first` is the block's first line in the layer, `at` its address on the chip.
    """

    first: int
    lines: int
    at: int
    transfer: Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRuns:
    """Runs of `count` vectors of a tensor: from `offset`, one per channel block, `plane` vectors apart.

    On the chip the first run begins at vector `local`, and the next ones `local_pitch` vectors apart.
    """

    tensor: str
    offset: int
    plane: int
    count: int
    runs: int
    local: int
    local_pitch: int
