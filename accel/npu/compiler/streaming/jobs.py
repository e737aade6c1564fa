"""Convert tasks to steps, in order. A task uses the accumulator bank that the previous one does not use, or both banks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter

from accel.npu import isa
from accel.npu.compiler.streaming.buffers import Resident
from accel.npu.compiler.streaming.order import Step, Transfer
from accel.npu.compiler.tile import WeightRows, Work
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.profile import NpuProfile

ResidentOf = Callable[[WeightRows], Resident]
"""Returns the on-chip location of the weight rows of a pass."""
MarkUse = Callable[[Resident, int], None]
"""Records that the pass of this number uses the weights."""
REPEAT_LIMIT = 64
"""Passes in one REPEAT: no transfer is issued during it, so a long one would delay them."""

_SETTINGS = attrgetter("opcode", *(field.name for field in fields(isa.ArrayPass) if field.name != "base"))


@dataclass(frozen=True, slots=True)
class Chain:
    """Passes that accumulate in the same accumulators; a chain that is not fresh continues the sums of an earlier task."""

    works: tuple[Work, ...]
    accumulator: int = 0
    is_fresh: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """A VEC, and the transfers that must be complete before it."""

    vector: isa.Vec
    residual: isa.Residual | None
    needs: tuple[Transfer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Array passes between two SYNCs for the array, followed by VECs."""

    shape: isa.Shape
    chains: tuple[Chain, ...]
    finishes: tuple[Finish, ...]
    inputs: tuple[Transfer, ...]
    """Transfers that must be complete before the first pass."""
    after_vector: int = -1
    """The VEC that must be complete before the first pass, -1 if none."""
    is_wide: bool = False
    """True if the task uses both banks; its accumulators then count from the first bank."""


class JobSteps:
    """Builder of the step list. The end of a task (SYNC, then VEC) is appended with the next task, after its first LOADW."""

    def __init__(self, profile: NpuProfile) -> None:
        self.steps: list[Step] = []
        self.last = -1
        """The number of the last task."""
        self.last_vector = -1
        """The number of the last VEC."""
        self._depth = profile.accumulator_depth
        self._bank = 0
        self._both_banks_until = -1
        """The last VEC of a wide task."""
        self._passes = 0
        self._shape: isa.Shape | None = None
        self._residual: isa.Residual | None = None
        self._live: tuple[Transfer, int] | None = None
        self._shadow: tuple[Transfer, int] | None = None
        self._unfinished: Task | None = None

    def add(self, task: Task, resident_of: ResidentOf, mark_use: MarkUse) -> int:
        """Append a task; return the number of its first VEC."""
        self._load(task.chains[0].works[0].load, resident_of)
        self.finish()
        after = max(task.after_vector, self.last_vector if task.is_wide else self._both_banks_until)
        first, self.last = self.last_vector + 1, self.last + 1
        self.last_vector += len(task.finishes)
        self._bank = 0 if task.is_wide else self._depth - self._bank
        self._both_banks_until = self.last_vector if task.is_wide else self._both_banks_until
        if task.shape != self._shape:
            self.steps.append(Step((task.shape,)))
            self._shape = task.shape
        begin = len(self.steps)
        for chain in task.chains:
            self._chain(chain, resident_of, mark_use)
        self._delay_first_pass(begin, task.inputs, after)
        self._unfinished = task
        return first

    def finish(self) -> None:
        """Append the end of the last task."""
        task, self._unfinished = self._unfinished, None
        if task is None:
            return
        self.steps.append(Step((isa.Sync(array=1),)))
        for finish in task.finishes:
            if finish.residual is not None and finish.residual != self._residual:
                self.steps.append(Step((finish.residual,)))
                self._residual = finish.residual
            vector = replace(finish.vector, accumulator=self._bank + finish.vector.accumulator)
            self.steps.append(Step((vector,), finish.needs))

    def _delay_first_pass(self, begin: int, inputs: tuple[Transfer, ...], after_vector: int) -> None:
        """Make the first pass from step `begin` wait for the inputs and the VEC."""
        place = next(at for at in range(begin, len(self.steps)) if isinstance(self.steps[at].instructions[-1], isa.ArrayPass))
        step = self.steps[place]
        self.steps[place] = replace(step, needs=(*step.needs, *inputs), after_vector=after_vector)

    def _chain(self, chain: Chain, resident_of: ResidentOf, mark_use: MarkUse) -> None:
        place = 0
        while place < len(chain.works):
            is_first = not place and chain.is_fresh
            count = 1 if is_first else self._repeats(chain.works[place:], resident_of)
            if count > 1:
                self._repeated(chain.works[place : place + count], chain.accumulator, resident_of, mark_use)
            else:
                self._single(chain.works[place], chain.accumulator, resident_of, mark_use, accumulate=not is_first)
            place += count

    def _single(self, work: Work, accumulator: int, resident_of: ResidentOf, mark_use: MarkUse, *, accumulate: bool) -> None:
        weights = self._load(work.load, resident_of)
        swap = weights is not None and weights != self._live
        if work.load is not None and swap:
            self._live = weights
            mark_use(resident_of(work.load), self._passes)
        array_pass = replace(work.array_pass, accumulator=self._bank + accumulator, accumulate=int(accumulate), swap=int(swap))
        self.steps.append(Step((array_pass,)))
        self._passes += 1

    def _repeats(self, works: Sequence[Work], resident_of: ResidentOf) -> int:
        """Return the number of leading works that one REPEAT can execute: constant address steps, weights in one chunk."""
        first, first_pass = works[0].load, works[0].array_pass
        if first is None or len(works) < 2:
            return 1
        chunk, step, settings = resident_of(first), works[1].array_pass.base - first_pass.base, _SETTINGS(first_pass)
        count, address, base = 1, first.address, first_pass.base
        for work in works[1:REPEAT_LIMIT]:
            address, base = address + first.rows, base + step
            load = work.load
            if (
                load is None
                or (load.address, load.rows) != (address, first.rows)
                or address + first.rows > chunk.first + chunk.lines
            ):
                break
            if work.array_pass.base != base & ADDRESS_MASK or _SETTINGS(work.array_pass) != settings:
                break
            count += 1
        return count

    def _repeated(self, works: Sequence[Work], accumulator: int, resident_of: ResidentOf, mark_use: MarkUse) -> None:
        """Append a REPEAT with the LOADW and the array pass that it repeats."""
        first, last = works[0].load, works[-1].load
        assert first is not None
        assert last is not None
        chunk = resident_of(first)
        repeat = isa.Repeat(
            count=len(works),
            address_step=first.rows,
            base_step=works[1].array_pass.base - works[0].array_pass.base & ADDRESS_MASK,
        )
        load = first.load(chunk.at + first.address - chunk.first)
        array_pass = replace(works[0].array_pass, accumulator=self._bank + accumulator, accumulate=1, swap=1)
        self.steps.append(Step((repeat, load, array_pass), (chunk.transfer,)))
        self._passes += len(works)
        mark_use(chunk, self._passes - 1)
        self._live = self._shadow = (chunk.transfer, last.address)

    def _load(self, load: WeightRows | None, resident_of: ResidentOf) -> tuple[Transfer, int] | None:
        """Append LOADW unless the rows are live or in the shadow registers; return the key of the rows."""
        if load is None:
            return None
        chunk = resident_of(load)
        weights = (chunk.transfer, load.address)
        if weights not in (self._live, self._shadow):
            self.steps.append(Step((load.load(chunk.at + load.address - chunk.first),), (chunk.transfer,)))
            self._shadow = weights
        return weights
