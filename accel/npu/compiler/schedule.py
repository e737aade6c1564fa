"""Convert jobs to instructions: alternate the accumulator banks, overlap the loads of weights, and avoid SYNC where possible.

While the vector unit empties one bank, the array fills the other. LOADW is issued as soon as the array uses the previous weights,
so the loader prefetches automatically within a job. Across the SYNC at the end of a job, the scheduler moves LOADW forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from accel.npu import isa
from accel.npu.compiler.tile import Job, WeightRows, Work
from accel.npu.geometry import visits
from accel.npu.profile import NpuProfile


@dataclass(slots=True)
class Schedule:
    """The instructions, and the first and last (not included) instruction of each group of jobs."""

    instructions: list[isa.Instruction] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)


def schedule(groups: Sequence[Sequence[Job]], profile: NpuProfile) -> Schedule:
    """Return the instructions of all jobs, with one span per group, and a HALT at the end."""
    scheduler = _Scheduler(profile)
    jobs = [job for group in groups for job in group]
    following = iter([*jobs[1:], None])
    scheduled = Schedule(scheduler.instructions)
    for group in groups:
        first = len(scheduler.instructions)
        for job in group:
            scheduler.add(job, next(following))
        scheduled.spans.append((first, len(scheduler.instructions)))
    scheduler.instructions.append(isa.Halt())
    return scheduled


class _Scheduler:
    """State of the machine at this point of the program: bank, settings, weights, and writes in flight."""

    def __init__(self, profile: NpuProfile) -> None:
        self.instructions: list[isa.Instruction] = []
        self._depth = profile.accumulator_depth
        self._bank = 0
        self._shape: isa.Shape | None = None
        self._residual: isa.Residual | None = None
        self._shadow: WeightRows | None = None
        self._live: WeightRows | None = None
        self._written: list[tuple[int, int]] = []
        """First and last activation of each span that the vector unit may still be writing."""

    def add(self, job: Job, following: Job | None) -> None:
        """Append the instructions of a job, and prefetch the weights of the job `following`."""
        if job.shape != self._shape:
            self.instructions.append(job.shape)
            self._shape = job.shape
        for number, work in enumerate(job.works):
            self._array_pass(work, job.shape, accumulate=number > 0)
        if following is not None:
            self._load(following.works[0])
        self.instructions.append(isa.Sync(array=1))
        if job.residual is not None and job.residual != self._residual:
            self.instructions.append(job.residual)
            self._residual = job.residual
        self.instructions.append(replace(job.vector, accumulator=self._bank * self._depth))
        self._written = list(_written(job.vector))
        self._bank = 1 - self._bank

    def _array_pass(self, work: Work, shape: isa.Shape, *, accumulate: bool) -> None:
        self._load(work)
        span = visits(shape, work.array_pass).span
        if span is not None and any(first <= span[1] and span[0] <= last for first, last in self._written):
            self.instructions.append(isa.Sync(vector=1))
            self._written = []
        swap = work.load is not None and work.load != self._live
        if swap:
            self._live = work.load
        accumulator = self._bank * self._depth
        self.instructions.append(replace(work.array_pass, accumulator=accumulator, accumulate=int(accumulate), swap=int(swap)))

    def _load(self, work: Work) -> None:
        if work.load is None or work.load in (self._live, self._shadow):
            return
        self.instructions.append(work.load.load(work.load.address))
        self._shadow = work.load


def _written(vector: isa.Vec) -> Iterable[tuple[int, int]]:
    for part in range(vector.parts):
        first = vector.destination + part * vector.part_pitch
        yield first, first + vector.count - 1
