"""Convert fills to instructions: alternate the accumulator banks, overlap loads and VECs with array passes, avoid SYNC.

While the vector unit empties one bank, the array fills the other. LOADW is issued as soon as the array uses the previous weights,
so the loader prefetches automatically within a fill. Across the SYNC between two fills, the scheduler moves LOADW forward.

Instructions are issued in order, so one that waits holds up all others. The cycle model runs while instructions are
scheduled: the VECs of a bank are issued between the passes of the next one, when the vector unit is idle.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache

from accel.npu import isa
from accel.npu.compiler.fills import Emptying, Fill, Pass, Span, overlap
from accel.npu.compiler.tile import WeightRows
from accel.npu.model.timing import FETCH_CYCLES, Clock
from accel.npu.profile import NpuProfile


class Scheduler:
    """State of the machine at this point of the program: bank, settings, weights, and VECs to issue and in flight."""

    def __init__(self, profile: NpuProfile) -> None:
        self.instructions: list[isa.Instruction] = []
        self._clock = Clock(profile)
        self._depth = profile.accumulator_depth
        self._bank = 0
        self._shape: isa.Shape | None = None
        self._residual: isa.Residual | None = None
        self._shadow: WeightRows | None = None
        self._live: WeightRows | None = None
        self._filled: Fill | None = None
        """The last fill: its VECs are not issued yet."""
        self._waiting: list[Emptying] = []
        """VECs of the fill before it that are not issued yet."""
        self._written: tuple[Span, ...] = ()
        """The activations that the vector unit may still be writing."""

    def copy(self) -> Scheduler:
        """Return an independent scheduler in the same state."""
        duplicate = copy.copy(self)
        duplicate.instructions, duplicate._waiting = list(self.instructions), list(self._waiting)
        duplicate._clock = self._clock.copy()
        return duplicate

    @property
    def cycles(self) -> int:
        """Cycles of the instructions so far."""
        return self._clock.at + 1

    @property
    def cycles_to_rest(self) -> int:
        """Cycles until the array and the vector unit would be idle if nothing followed."""
        pending = sum(each.vector.count for each in self._waiting) + (self._filled.vector_cycles if self._filled else 0)
        return self._clock.at_rest + pending

    def add(self, fill: Fill) -> None:
        """Append the passes of a fill, with the VECs of the fill before it between them."""
        for number, each in enumerate(fill.passes):
            self._load(each.work.load)
            self._set_shape(each.shape)
            if number == 0:
                self._change_banks(fill)
            self._array_pass(each)
            if number + 1 < len(fill.passes):
                self._load(fill.passes[number + 1].work.load)
            while self._waiting and self._clock.vector_free <= self._clock.at + FETCH_CYCLES:
                self._empty()
        self._filled = fill

    def finish(self) -> None:
        """Append the VECs of the last fill, and HALT."""
        self._empty_all()
        if self._filled is not None:
            self._put(isa.Sync(array=1))
            self._take_filled()
        self._empty_all()
        self._put(isa.Halt())

    def _change_banks(self, fill: Fill) -> None:
        """Wait for the last fill, and for the vector unit to leave the bank that the next one uses."""
        self._empty_all()
        filled = self._filled
        if filled is None:
            return
        reads_next = overlap(fill.passes[0].reads, [span for each in filled.emptyings for span in each.writes])
        if reads_next or filled.vector_cycles > fill.array_cycles:
            self._put(isa.Sync(array=1))
            self._take_filled()
            self._empty()  # this waits for the VEC before it, so the other bank is free
        else:
            self._put(isa.Sync(array=1, vector=int(bool(self._written))))
            self._written = ()
            self._take_filled()
        self._bank = 1 - self._bank

    def _take_filled(self) -> None:
        assert self._filled is not None
        first = self._bank * self._depth
        for each in self._filled.emptyings:
            vector = replace(each.vector, accumulator=first + each.vector.accumulator)
            self._waiting.append(replace(each, vector=vector))

    def _array_pass(self, each: Pass) -> None:
        while any(overlap(each.reads, waiting.writes) for waiting in self._waiting):
            self._empty()
        if overlap(each.reads, self._written):
            self._put(isa.Sync(vector=1))
            self._written = ()
        swap = each.work.load is not None and each.work.load != self._live
        if swap:
            self._live = each.work.load
        accumulator = self._bank * self._depth + each.accumulator
        array_pass = each.work.array_pass
        self._put(_placed(array_pass, accumulator, accumulate=each.accumulate, swap=swap))

    def _set_shape(self, shape: isa.Shape) -> None:
        if shape != self._shape:
            self._put(shape)
            self._shape = shape

    def _load(self, load: WeightRows | None) -> None:
        if load is None or load in (self._live, self._shadow):
            return
        self._put(_loaded(load))
        self._shadow = load

    def _empty_all(self) -> None:
        while self._waiting:
            self._empty()

    def _empty(self) -> None:
        """Issue the next VEC."""
        emptying = self._waiting.pop(0)
        if emptying.residual is not None and emptying.residual != self._residual:
            self._put(emptying.residual)
            self._residual = emptying.residual
        self._put(emptying.vector)
        self._written = emptying.writes  # VEC waits for the previous one

    def _put(self, instruction: isa.Instruction) -> None:
        self.instructions.append(instruction)
        self._clock.issue(instruction)


@lru_cache(maxsize=1 << 14)  # the search schedules the same passes many times
def _placed(array_pass: isa.ArrayPass, accumulator: int, *, accumulate: bool, swap: bool) -> isa.ArrayPass:
    return replace(array_pass, accumulator=accumulator, accumulate=int(accumulate), swap=int(swap))


@lru_cache(maxsize=1 << 14)
def _loaded(load: WeightRows) -> isa.LoadW:
    return load.load(load.address)
