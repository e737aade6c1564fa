"""The cycle model: the run time of a program, equal to the RTL's counters cycle for cycle.

The machine issues in order and its units work in parallel, so a few rules per instruction determine the time (docs/spec/npu.md,
N90-N95). Tensor values have no influence. The model is exact, so it may be extrapolated to machines that were not simulated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from accel.npu import isa
from accel.npu.depthwise import REST_CYCLES, ROW_OVERHEAD, walk
from accel.npu.model.memory_timing import MemoryClock
from accel.npu.profile import NpuProfile

FETCH_CYCLES = 3
SWEEP_MIN = 4
ARRAY_DEPTH = 7
"""Cycles from the address of a visit to its accumulation."""
LOADER_DEPTH = 2
VECTOR_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Counters:
    """The hardware counters of one run, in cycles, in the order of the registers (docs/spec/npu.md, N83)."""

    cycles: int
    visits: int
    vector_cycles: int
    loader_stalls: int
    array_stalls: int
    vector_stalls: int
    sync_stalls: int
    transfer_stalls: int
    transfer_cycles: int


@dataclass(frozen=True, slots=True)
class Timing:
    """The counters after a program, and the cycle in which each of its instructions was issued."""

    counters: Counters
    issued: tuple[int, ...]


def time_program(instructions: Iterable[isa.Instruction], profile: NpuProfile) -> Timing:
    """Return the counters and issue times of `instructions`, which end with HALT."""
    clock = Clock(profile)
    for instruction in instructions:
        clock.issue(instruction)
    return Timing(clock.counters(), tuple(clock.issued))


class Clock:
    """State of the cycle model: the cycle in which each unit is free, and the counters."""

    def __init__(self, profile: NpuProfile) -> None:
        self.issued: list[int] = []
        self._profile = profile
        self._shape: isa.Shape | None = None
        self.at = -1
        """The cycle in which the last instruction was issued."""
        self._loader_free = self._array_ready = self._array_idle = self._vector_free = 0
        self._visits = self._vector_cycles = 0
        self.memory = MemoryClock(profile.refresh_cycles)
        self._stalls = {"loader": 0, "array": 0, "vector": 0, "sync": 0, "transfer": 0}

    def issue(self, instruction: isa.Instruction) -> None:
        """Wait until the units that the instruction needs are free, then start it."""
        self.at += FETCH_CYCLES
        if isinstance(instruction, isa.Shape):
            self._wait("array", self._array_ready)
            self._shape = instruction
        elif isinstance(instruction, isa.LoadW):
            self._wait("loader", self._loader_free)
            self._loader_free = self.at + self._profile.shift_rows + instruction.rows + LOADER_DEPTH + 1
        elif isinstance(instruction, isa.ArrayPass):
            self._start_array(instruction)
        elif isinstance(instruction, isa.Residual):
            self._wait("vector", self._vector_free)
        elif isinstance(instruction, isa.Vec):
            self._start_vector(instruction)
        elif isinstance(instruction, isa.Dma):
            self._wait("transfer", self.memory.room_at())
            self.memory.issue(instruction, self.at)
        elif not isinstance(instruction, isa.Repeat):
            self._wait("sync", self._idle_at(instruction))
        self.issued.append(self.at)

    @property
    def at_rest(self) -> int:
        """The first cycle in which the array and the vector unit are idle."""
        return max(self._array_idle, self._vector_free)

    @property
    def vector_free(self) -> int:
        """The first cycle in which the vector unit is idle."""
        return self._vector_free

    def copy(self) -> Clock:
        """Return an independent clock in the same state, for programs without transfers."""
        duplicate = copy.copy(self)
        duplicate.issued, duplicate._stalls = list(self.issued), dict(self._stalls)
        return duplicate

    def counters(self) -> Counters:
        """Return the counters after the last instruction."""
        stalls = self._stalls
        waits = (stalls["loader"], stalls["array"], stalls["vector"], stalls["sync"], stalls["transfer"])
        return Counters(self.at + 1, self._visits, self._vector_cycles, *waits, self.memory.busy_cycles)

    def _wait(self, unit: str, until: int) -> None:
        if until > self.at:
            self._stalls[unit] += until - self.at
            self.at = until

    def _start_array(self, instruction: isa.ArrayPass) -> None:
        self._wait("array", self._array_ready)
        if instruction.swap:
            self._wait("loader", self._loader_free)
        assert self._shape is not None
        visits, last_visit, cycles = pass_cost(self._shape, instruction)
        self._array_ready = self.at + cycles
        self._array_idle = self.at + max(cycles, last_visit + ARRAY_DEPTH) + 1
        self._visits += visits

    def _start_vector(self, instruction: isa.Vec) -> None:
        self._wait("vector", self._vector_free)
        groups = instruction.count * instruction.parts * self._profile.lane_groups
        self._vector_free = self.at + groups + VECTOR_DEPTH + 1
        self._vector_cycles += groups

    def _idle_at(self, instruction: isa.Instruction) -> int:
        """Return the cycle in which the units that SYNC names are idle; HALT waits for all units."""
        units = instruction if isinstance(instruction, isa.Sync) else isa.Sync(loader=1, array=1, vector=1, transfers=1)
        transfers = self.memory.pending_at(units.pending) if units.transfers else 0
        return max(units.loader * self._loader_free, units.array * self._array_idle, units.vector * self._vector_free, transfers)


def pass_cost(shape: isa.Shape, instruction: isa.ArrayPass) -> tuple[int, int, int]:
    """Return the visits of an array pass, the cycles to its last visit, and the cycles to the next pass."""
    return _window_pass(shape, instruction) if isinstance(instruction, isa.Dw) else _tap_pass(shape, instruction)


def _tap_pass(shape: isa.Shape, instruction: isa.ArrayPass) -> tuple[int, int, int]:
    """Return visits, cycles to the last visit and cycles to the next pass of a GEMM or POOL: it sweeps the positions per tap."""
    positions, taps = shape.rows * shape.columns, instruction.kernel_rows * instruction.kernel_columns
    sweep = max(positions, SWEEP_MIN)
    return taps * positions, (taps - 1) * sweep + positions, taps * sweep


def _window_pass(shape: isa.Shape, instruction: isa.ArrayPass) -> tuple[int, int, int]:
    """Return visits, cycles to the last visit and cycles to the next pass of a DW: it visits each vector once."""
    rows, columns = walk(shape, instruction)
    length = max(columns, instruction.kernel_columns + ROW_OVERHEAD)
    return rows * columns, (rows - 1) * length + columns, rows * length + REST_CYCLES
