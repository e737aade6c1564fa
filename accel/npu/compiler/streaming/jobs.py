"""The steps of tasks, one after another, each in the bank of accumulators that the one before leaves alone, or in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter

from accel.npu import isa
from accel.npu.compiler.streaming.order import Step, Transfer
from accel.npu.compiler.streaming.rooms import Resident
from accel.npu.compiler.tile import WeightRows, Work
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.profile import NpuProfile

RoomOf = Callable[[WeightRows], Resident]
"""Where the weight rows of a pass are on the chip."""
Used = Callable[[Resident, int], None]
"""Told that a room is in use until the pass of that number."""


REPEAT_LIMIT = 64
"""Passes in one REPEAT: transfers are not issued while it lasts, so it must not last for too long."""


_BUT_BASE = attrgetter("opcode", *(field.name for field in fields(isa.ArrayPass) if field.name != "base"))


@dataclass(frozen=True, slots=True)
class Chain:
    """Passes that add up in the same accumulators; a chain that is not fresh goes on with what an earlier task left there."""

    works: tuple[Work, ...]
    accumulator: int = 0
    is_fresh: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """A VEC, and the transfers that must be done before it."""

    vector: isa.Vec
    residual: isa.Residual | None
    needs: tuple[Transfer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the array does between two waits for it, and the VECs behind that."""

    shape: isa.Shape
    chains: tuple[Chain, ...]
    finishes: tuple[Finish, ...]
    inputs: tuple[Transfer, ...]
    """What must be there before the first pass."""
    after_vector: int = -1
    """The VEC that must be done before the first pass."""
    is_wide: bool = False
    """It uses both banks; its accumulators count from the beginning of the first one."""


class JobSteps:
    """Appends tasks. The end of a task (waiting for the array, then VEC) comes when the next one is known: its first weights are
    loaded before that.
    """

    def __init__(self, profile: NpuProfile) -> None:
        self.steps: list[Step] = []
        self.last = -1
        """The number of the task that was added last."""
        self.last_vector = -1
        """The number of its last VEC."""
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

    def add(self, task: Task, room_of: RoomOf, used: Used) -> int:
        """Append a task; return the number of its first VEC."""
        self._load(task.chains[0].works[0].load, room_of)
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
            self._chain(chain, room_of, used)
        self._begin_behind(begin, task.inputs, after)
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

    def _begin_behind(self, begin: int, inputs: tuple[Transfer, ...], after_vector: int) -> None:
        """Let the first pass from step `begin` on wait."""
        place = next(at for at in range(begin, len(self.steps)) if isinstance(self.steps[at].instructions[-1], isa.ArrayPass))
        step = self.steps[place]
        self.steps[place] = replace(step, needs=(*step.needs, *inputs), after_vector=after_vector)

    def _chain(self, chain: Chain, room_of: RoomOf, used: Used) -> None:
        place = 0
        while place < len(chain.works):
            is_first = not place and chain.is_fresh
            count = 1 if is_first else self._repeats(chain.works[place:], room_of)
            if count > 1:
                self._repeated(chain.works[place : place + count], chain.accumulator, room_of, used)
            else:
                self._single(chain.works[place], chain.accumulator, room_of, used, accumulate=not is_first)
            place += count

    def _single(self, work: Work, accumulator: int, room_of: RoomOf, used: Used, *, accumulate: bool) -> None:
        wanted = self._load(work.load, room_of)
        swap = wanted is not None and wanted != self._live
        if work.load is not None and swap:
            self._live = wanted
            used(room_of(work.load), self._passes)
        fitted = replace(work.array_pass, accumulator=self._bank + accumulator, accumulate=int(accumulate), swap=int(swap))
        self.steps.append(Step((fitted,)))
        self._passes += 1

    def _repeats(self, works: Sequence[Work], room_of: RoomOf) -> int:
        """Return how many works at the beginning differ only in steps of their addresses, with weights in one room."""
        first, first_pass = works[0].load, works[0].array_pass
        if first is None or len(works) < 2:
            return 1
        room, step, same = room_of(first), works[1].array_pass.base - first_pass.base, _BUT_BASE(first_pass)
        count, address, base = 1, first.address, first_pass.base
        for work in works[1:REPEAT_LIMIT]:
            address, base = address + first.rows, base + step
            load = work.load
            if (
                load is None
                or (load.address, load.rows) != (address, first.rows)
                or address + first.rows > room.first + room.lines
            ):
                break
            if work.array_pass.base != base & ADDRESS_MASK or _BUT_BASE(work.array_pass) != same:
                break
            count += 1
        return count

    def _repeated(self, works: Sequence[Work], accumulator: int, room_of: RoomOf, used: Used) -> None:
        """Append REPEAT and its first turn."""
        first, last = works[0].load, works[-1].load
        assert first is not None
        assert last is not None
        room = room_of(first)
        repeat = isa.Repeat(
            count=len(works),
            address_step=first.rows,
            base_step=works[1].array_pass.base - works[0].array_pass.base & ADDRESS_MASK,
        )
        load = first.load(room.at + first.address - room.first)
        array_pass = replace(works[0].array_pass, accumulator=self._bank + accumulator, accumulate=1, swap=1)
        self.steps.append(Step((repeat, load, array_pass), (room.transfer,)))
        self._passes += len(works)
        used(room, self._passes - 1)
        self._live = self._shadow = (room.transfer, last.address)

    def _load(self, load: WeightRows | None, room_of: RoomOf) -> tuple[Transfer, int] | None:
        if load is None:
            return None
        room = room_of(load)
        wanted = (room.transfer, load.address)
        if wanted not in (self._live, self._shadow):
            self.steps.append(Step((load.load(room.at + load.address - room.first),), (room.transfer,)))
            self._shadow = wanted
        return wanted
