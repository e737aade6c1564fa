"""The steps of jobs, one after another, each in the bank of accumulators that the one before leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from accel.npu import isa
from accel.npu.compiler.streaming.order import Step, Transfer
from accel.npu.compiler.streaming.rooms import Resident
from accel.npu.compiler.tile import Job, Work
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.profile import NpuProfile

RoomOf = Callable[[isa.LoadW], Resident]
"""Where the weight rows of a pass are on the chip."""
Used = Callable[[Resident, int], None]
"""Told that a room is in use until the pass of that number."""


REPEAT_LIMIT = 64
"""Passes in one REPEAT: transfers are not issued while it lasts, so it must not last for too long."""


class JobSteps:
    """Appends jobs. The end of a job (waiting for the array, then VEC) comes when the next one is known: its first weights are
    loaded before that.
    """

    def __init__(self, profile: NpuProfile) -> None:
        self.steps: list[Step] = []
        self.last = -1
        """The number of the job that was added last."""
        self._depth = profile.accumulator_depth
        self._passes = 0
        self._shape: isa.Shape | None = None
        self._residual: isa.Residual | None = None
        self._live: tuple[Transfer, int] | None = None
        self._shadow: tuple[Transfer, int] | None = None
        self._unfinished: tuple[Job, tuple[Transfer, ...]] | None = None

    def add(self, job: Job, room_of: RoomOf, used: Used, inputs: tuple[Transfer, ...], needs: tuple[Transfer, ...]) -> None:
        """Append a job whose first pass needs `inputs`, and whose VEC needs `needs`."""
        self._load(job.works[0].load, room_of)
        self.finish()
        self.last += 1
        if job.shape != self._shape:
            self.steps.append(Step((job.shape,)))
            self._shape = job.shape
        place = 0
        while place < len(job.works):
            count = self._repeats(job.works[place:], room_of) if place else 1
            if count > 1:
                self._repeated(job.works[place : place + count], room_of, used)
            else:
                self._single(job.works[place], room_of, used, accumulate=place > 0, needs=() if place else inputs)
            place += count
        self._unfinished = (job, needs)

    def finish(self) -> None:
        """Append the end of the last job."""
        if self._unfinished is None:
            return
        job, needs = self._unfinished
        self.steps.append(Step((isa.Sync(array=1),)))
        if job.residual is not None and job.residual != self._residual:
            self.steps.append(Step((job.residual,)))
            self._residual = job.residual
        self.steps.append(Step((replace(job.vector, accumulator=self._bank()),), needs))
        self._unfinished = None

    def _single(self, work: Work, room_of: RoomOf, used: Used, *, accumulate: bool, needs: tuple[Transfer, ...]) -> None:
        wanted = self._load(work.load, room_of)
        swap = wanted is not None and wanted != self._live
        if work.load is not None and swap:
            self._live = wanted
            used(room_of(work.load), self._passes)
        fitted = replace(work.array_pass, accumulator=self._bank(), accumulate=int(accumulate), swap=int(swap))
        self.steps.append(Step((fitted,), needs))
        self._passes += 1

    def _repeats(self, works: Sequence[Work], room_of: RoomOf) -> int:
        """Return how many works at the beginning differ only in steps of their addresses, with weights in one room."""
        first = works[0].load
        if first is None or len(works) < 2:
            return 1
        room, step = room_of(first), works[1].array_pass.base - works[0].array_pass.base
        count = 1
        for number, work in enumerate(works[1:REPEAT_LIMIT], 1):
            address = first.address + number * first.rows
            expected = replace(works[0].array_pass, base=works[0].array_pass.base + number * step & ADDRESS_MASK)
            if (
                work.load != replace(first, address=address)
                or address + first.rows > room.first + room.lines
                or work.array_pass != expected
            ):
                break
            count += 1
        return count

    def _repeated(self, works: Sequence[Work], room_of: RoomOf, used: Used) -> None:
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
        load = replace(first, address=room.at + first.address - room.first)
        array_pass = replace(works[0].array_pass, accumulator=self._bank(), accumulate=1, swap=1)
        self.steps.append(Step((repeat, load, array_pass), (room.transfer,)))
        self._passes += len(works)
        used(room, self._passes - 1)
        self._live = self._shadow = (room.transfer, last.address)

    def _bank(self) -> int:
        return self.last % 2 * self._depth

    def _load(self, load: isa.LoadW | None, room_of: RoomOf) -> tuple[Transfer, int] | None:
        if load is None:
            return None
        room = room_of(load)
        wanted = (room.transfer, load.address)
        if wanted not in (self._live, self._shadow):
            self.steps.append(Step((replace(load, address=room.at + load.address - room.first),), (room.transfer,)))
            self._shadow = wanted
        return wanted
