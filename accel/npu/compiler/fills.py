"""Group jobs into fills: a fill is what the array computes into one bank of accumulators before the vector unit empties it.

The array fills one bank while the vector unit empties the other, so a layer takes the time of the slower of the two. A shortcut
convolution with a 1x1 kernel keeps the vector unit busy and the array idle; a 3x3 convolution does the reverse. Two
neighbouring layers therefore share banks: each fill has a job of one and a job of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accel.npu import isa
from accel.npu.compiler.tile import Job, Work
from accel.npu.geometry import visited_span
from accel.npu.model.timing import pass_cost
from accel.npu.profile import NpuProfile

Span = tuple[int, int]
"""The first and the last activation, both included."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One array pass of a fill; its accumulators are relative to the bank."""

    shape: isa.Shape
    work: Work
    reads: tuple[Span, ...]
    accumulator: int
    accumulate: bool


@dataclass(frozen=True, slots=True)
class Emptying:
    """The VEC of one job; its accumulators are relative to the bank."""

    vector: isa.Vec
    residual: isa.Residual | None
    writes: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """The passes into one bank of accumulators, and the VECs that empty it."""

    passes: tuple[Pass, ...]
    emptyings: tuple[Emptying, ...]
    array_cycles: int
    vector_cycles: int


@dataclass(frozen=True, slots=True)
class _Access:
    """The activations that a job reads and writes."""

    reads: tuple[Span, ...]
    writes: tuple[Span, ...]

    def conflicts(self, later: _Access) -> bool:
        """Return true if `later` must come after this job."""
        touched = (*later.reads, *later.writes)
        return overlap(self.writes, touched) or overlap(self.reads, later.writes)


def single(jobs: Sequence[Job], profile: NpuProfile) -> list[Fill]:
    """Return one fill per job."""
    return [_fill((job,), profile) for job in jobs]


def interleaved(first: Sequence[Job], second: Sequence[Job], profile: NpuProfile) -> list[Fill] | None:
    """Return fills with jobs of two layers, in the order of each layer; None if no two jobs share a fill.

    A job of the second layer comes two fills after those that it depends on: in the fill between, the vector unit
    writes what it reads.
    """
    begins = _begins(first, second)
    fills: list[tuple[Job, ...]] = []
    taken = 0
    while len(fills) < len(first) or taken < len(second):
        jobs = first[len(fills) : len(fills) + 1]
        is_ready = taken < len(second) and (not jobs or begins[taken] <= len(fills))
        if is_ready and sum(job.vector.count for job in jobs) + second[taken].vector.count <= profile.accumulator_depth:
            jobs = (*jobs, second[taken])
            taken += 1
        fills.append(tuple(jobs))
    if all(len(jobs) == 1 for jobs in fills):
        return None
    return [_fill(jobs, profile) for jobs in fills]


def overlap(ones: Sequence[Span], others: Sequence[Span]) -> bool:
    """Return true if any of the spans have an activation in common."""
    return any(one[0] <= other[1] and other[0] <= one[1] for one in ones for other in others)


def _begins(first: Sequence[Job], second: Sequence[Job]) -> list[int]:
    """Return, for each job of the second layer, the first fill that may contain it."""
    earlier = [_access(job) for job in first]
    begins, last = [], -1
    for job in second:
        access = _access(job)
        last = next((number for number in range(len(earlier) - 1, last, -1) if earlier[number].conflicts(access)), last)
        begins.append(0 if last < 0 else last + 2)
    return begins


def _access(job: Job) -> _Access:
    reads = [span for work in job.works for span in _read(job.shape, work)]
    if job.vector.add:
        reads += _parts(job.vector, job.vector.residual)
    return _Access(tuple(reads), tuple(_parts(job.vector, job.vector.destination)))


def _fill(jobs: Sequence[Job], profile: NpuProfile) -> Fill:
    passes, emptyings, accumulator = [], [], 0
    for job in jobs:
        for number, work in enumerate(job.works):
            passes.append(Pass(job.shape, work, _read(job.shape, work), accumulator, number > 0))
        writes = tuple(_parts(job.vector, job.vector.destination))
        emptyings.append(Emptying(replace(job.vector, accumulator=accumulator), job.residual, writes))
        accumulator += job.vector.count
    return Fill(
        passes=tuple(passes),
        emptyings=tuple(emptyings),
        array_cycles=sum(pass_cost(each.shape, each.work.array_pass)[2] for each in passes),
        vector_cycles=sum(job.vector.count * job.vector.parts * profile.lane_groups for job in jobs),
    )


def _read(shape: isa.Shape, work: Work) -> tuple[Span, ...]:
    span = visited_span(shape, work.array_pass)
    return () if span is None else (span,)


def _parts(vector: isa.Vec, start: int) -> Iterator[Span]:
    for part in range(vector.parts):
        first = start + part * vector.part_pitch
        yield first, first + vector.count - 1
