"""Track the DMA transfers in flight and the memory that they access (docs/spec/npu.md, N151-N156).

Transfers complete in order of issue, and at most 16 are in flight. So a SYNC that leaves `pending` transfers, or the issue of a
seventeenth one, determines which transfers are complete.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.arithmetic import MAX_SHIFT
from accel.npu.model.memory_timing import QUEUE_DEPTH
from accel.npu.profile import NpuProfile

Lines = tuple[int, int]
"""First and last line of a memory, both included; a line is a vector, a weight row, a group of parameters or an instruction."""


def line_words(region: int, profile: NpuProfile) -> int:
    """Return the number of 32-bit words in a line of the region."""
    if region == isa.Region.PROGRAM:
        return isa.WORD_BITS // 32
    return 4 * profile.vector_lanes if region == isa.Region.PARAMETERS else profile.columns // 4


def region_lines(region: int, profile: NpuProfile) -> int:
    """Return the number of lines in the region."""
    depths = {
        isa.Region.PROGRAM: profile.instructions,
        isa.Region.WEIGHTS: profile.weight_rows,
        isa.Region.ACTIVATIONS: profile.activation_vectors,
        isa.Region.PARAMETERS: profile.parameter_groups,
    }
    return depths[isa.Region(region)]


def local_lines(transfer: isa.Dma, profile: NpuProfile) -> Iterator[Lines]:
    """Yield the on-chip lines of each run."""
    words = line_words(transfer.region, profile)
    for run in range(transfer.runs):
        first = transfer.local + run * transfer.local_pitch
        yield first // words, (first + transfer.words - 1) // words


class RuleViolationError(Exception):
    """A violated rule, without the position of the instruction."""


def require(condition: bool, message: str) -> None:
    """Raise `RuleViolationError` with `message` unless the condition holds."""
    if not condition:
        raise RuleViolationError(message)


def check_transfer(transfer: isa.Dma, profile: NpuProfile, external: npt.NDArray[np.uint32]) -> None:
    """Check the addresses and the values of one transfer; `external` holds the program's constants.

    Raises:
        RuleViolationError: the transfer leaves a memory, splits a line, mixes constants with tensors, or loads weights or
            parameters that the hardware does not support.
    """
    constants = len(external)
    require(profile.external_memory_mib > 0, f"{profile.name} has no external memory")
    require(transfer.region in list(isa.Region), f"region must be one of 1 to {max(isa.Region)}, not {transfer.region}")
    region = isa.Region(transfer.region)
    is_tensor = region is isa.Region.ACTIVATIONS
    require(is_tensor or not transfer.store, "only activations can be stored")
    require(min(transfer.words, transfer.runs) >= 1, "words and runs must be 1 or more")
    line = line_words(region, profile)
    pitches = (transfer.external_pitch, transfer.local_pitch) if transfer.runs > 1 else ()
    aligned = (
        not any(value % line for value in (transfer.local, transfer.words, *pitches)) and transfer.external % min(line, 4) == 0
    )
    require(aligned, f"addresses, words and pitches must be multiples of {line}")
    require(not is_tensor or transfer.external % line == 0, f"a tensor's external address must be a multiple of {line}")
    last = transfer.local + (transfer.runs - 1) * transfer.local_pitch + transfer.words
    room = region_lines(region, profile) * line
    require(last <= room, f"the {region.name.lower()} memory ends at word {room}, but {last} is used")
    require(transfer.runs == 1 or min(pitches) >= transfer.words, "runs must not overlap")
    end = transfer.external + (transfer.runs - 1) * transfer.external_pitch + transfer.words
    require(end <= profile.external_words, f"the external memory ends at word {profile.external_words}, but {end} is used")
    fits = transfer.external >= constants if is_tensor else end <= constants
    require(
        fits, f"the program's constants are words 0 to {constants - 1}: tensors must be after them, all else must be within them"
    )
    if region in (isa.Region.WEIGHTS, isa.Region.PARAMETERS):
        _check_values(transfer, region, external)


def _check_values(transfer: isa.Dma, region: isa.Region, external: npt.NDArray[np.uint32]) -> None:
    for run in range(transfer.runs):
        first = transfer.external + run * transfer.external_pitch
        words = external[first : first + transfer.words]
        if region is isa.Region.WEIGHTS:
            require(not np.any(words.view(np.int8) == -128), "weights must be between -127 and 127")
        else:
            check_parameters(words.view(np.int32).reshape(-1, 4))


def check_parameters(parameters: npt.NDArray[np.int32]) -> None:
    """Raise `RuleViolationError` unless the hardware supports all multipliers and shifts ([..., bias, multiplier, shift, …])."""
    multipliers, shifts = parameters[..., 1], parameters[..., 2]
    holds = not np.any(multipliers < 0) and not np.any((shifts < 1) | (shifts > MAX_SHIFT))
    require(holds, f"multipliers must not be negative, and shifts must be between 1 and {MAX_SHIFT}")


class TransfersInFlight:
    """Queue of incomplete transfers, with counters on the lines that they read and write."""

    def __init__(self, profile: NpuProfile) -> None:
        self._profile = profile
        self._queue: list[isa.Dma] = []
        self._writers = {region: np.zeros(region_lines(region, profile), np.uint8) for region in isa.Region}
        self._readers = np.zeros(profile.activation_vectors, np.uint8)

    def issue(self, transfer: isa.Dma) -> None:
        """Queue a transfer; a full queue completes its oldest transfer first."""
        self.leave(QUEUE_DEPTH - 1)
        self._queue.append(transfer)
        self._mark(transfer, 1)

    def leave(self, pending: int) -> None:
        """Complete all transfers except the last `pending` ones."""
        while len(self._queue) > pending:
            self._mark(self._queue.pop(0), -1)

    def writes(self, region: int, lines: Lines) -> bool:
        """Return true if a transfer in flight may write any of the lines."""
        return bool(self._queue) and bool(self._writers[isa.Region(region)][lines[0] : lines[1] + 1].any())

    def reads(self, lines: Lines) -> bool:
        """Return true if a transfer in flight may read any of the activations."""
        return bool(self._queue) and bool(self._readers[lines[0] : lines[1] + 1].any())

    def _mark(self, transfer: isa.Dma, change: int) -> None:
        marks = self._readers if transfer.store else self._writers[isa.Region(transfer.region)]
        for first, last in local_lines(transfer, self._profile):
            marks[first : last + 1] += np.uint8(change & 0xFF)
