"""The external memory as it fills with constants, and the rooms on the chip that loads take by turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.arithmetic import Int32
from accel.npu.compiler.streaming.order import Transfer

ALIGNMENT_WORDS = 4


class Constants:
    """The words in the external memory, as they grow from address 0 on."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint32]] = []
        self.words = 0

    def add(self, values: npt.NDArray[np.signedinteger] | isa.Words) -> int:
        """Append an array; return the word where it begins."""
        begin = self.words
        words = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
        aligned = np.pad(words, (0, -len(words) % ALIGNMENT_WORDS))
        self._parts.append(aligned)
        self.words += len(aligned)
        return begin

    def add_parameters(self, parameters: Int32) -> int:
        """Append groups of parameters, three words of four per lane; return the word where they begin."""
        return self.add(np.pad(parameters, ((0, 0), (0, 0), (0, 1))))

    def array(self) -> npt.NDArray[np.uint32]:
        """Return all words."""
        return np.concatenate([np.zeros(0, np.uint32), *self._parts])


class Ring:
    """Rooms in the weight or parameter memory, taken in a circle; each line remembers until when it is in use."""

    def __init__(self, lines: int) -> None:
        self._in_use_until = np.full(lines, -1, np.int64)
        self._at = 0

    @property
    def lines(self) -> int:
        """How many there are."""
        return len(self._in_use_until)

    def take(self, lines: int) -> int:
        """Return the first line of a room that does not reach over the end."""
        first = self._at if self._at + lines <= self.lines else 0
        self._at = first + lines
        return first

    def free_after(self, first: int, lines: int) -> int:
        """Return until when what is there now is in use."""
        return int(self._in_use_until[first : first + lines].max())

    def use(self, first: int, lines: int, until: int) -> None:
        """Remember that these lines are in use until then."""
        self._in_use_until[first : first + lines] = until


@dataclass(frozen=True, slots=True)
class Resident:
    """Lines of a layer's weights or parameters on the chip: which (counted in the layer), where, and their transfer."""

    first: int
    lines: int
    at: int
    transfer: Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRuns:
    """A part of some blocks of a tensor: `count` vectors of each, from `offset` in the tensor, `plane` vectors apart."""

    tensor: str
    offset: int
    plane: int
    count: int
    runs: int
    local: int
    local_pitch: int
