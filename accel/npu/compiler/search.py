"""Choose the tiles of every layer, and the neighbouring layers that share banks of accumulators.

No formula gives the best tiles: small tiles overlap better, large tiles have fewer SYNCs and load weights less often. The cycle
model is exact, so the compiler schedules the layers one after the other in several ways, keeps the fastest partial
programs (a beam search), and returns the fastest program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from accel.npu import isa
from accel.npu.compiler.fills import Fill, interleaved, single
from accel.npu.compiler.schedule import Scheduler
from accel.npu.compiler.tile import Job, StoredLayer, Tiler, Tiling
from accel.npu.profile import NpuProfile

TILE_FRACTIONS = (1, 2, 4, 8, 16)
"""Tiles have up to 1/n of the positions of a bank of accumulators."""
BEAM_WIDTH = 3
LayerJobs = Mapping[Tiling, Sequence[Job]]
"""The jobs of one layer for each tiling."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A partial or complete program."""

    scheduler: Scheduler
    groups: tuple[tuple[int, int], ...] = ()
    """Per group of layers that share banks, the number of its layers and its first instruction."""

    def with_fills(self, fills: Sequence[Fill], layers: int) -> Schedule:
        """Return the program continued by the fills of the next `layers` layers."""
        scheduler = self.scheduler.copy()
        first = len(scheduler.instructions)
        for fill in fills:
            scheduler.add(fill)
        return Schedule(scheduler, (*self.groups, (layers, first)))

    def finished(self) -> Schedule:
        """Return the program with its HALT."""
        scheduler = self.scheduler.copy()
        scheduler.finish()
        return Schedule(scheduler, self.groups)

    @property
    def instructions(self) -> list[isa.Instruction]:
        """The instructions so far."""
        return self.scheduler.instructions


def fastest_schedule(layers: Sequence[StoredLayer], tiler: Tiler) -> Schedule:
    """Return the fastest program found that fits the program memory; if none fits, the shortest one."""
    profile = tiler.profile
    jobs = [{tiling: tiler.jobs(layer, tiling) for tiling in _tilings(profile)} for layer in layers]
    programs = [*_searched(jobs, profile), *_uniform(jobs, profile)]
    fitting = [program for program in programs if len(program.instructions) <= profile.instructions]
    if not fitting:
        return min(programs, key=lambda program: len(program.instructions))
    return min(fitting, key=lambda program: program.scheduler.cycles)


def _tilings(profile: NpuProfile) -> Iterator[Tiling]:
    for fraction in TILE_FRACTIONS:
        for is_tapered in (False, True):
            yield Tiling(max(1, profile.accumulator_depth // fraction), is_tapered)


def _searched(jobs: Sequence[LayerJobs], profile: NpuProfile) -> Iterator[Schedule]:
    """Yield the programs that the beam search finds."""
    beams: list[list[Schedule]] = [[] for _ in range(len(jobs) + 2)]
    beams[0] = [Schedule(Scheduler(profile))]
    for number, of_layer in enumerate(jobs):
        single_fills = [single(each, profile) for each in _distinct(of_layer)]
        shared_fills = list(_shared(of_layer, jobs[number + 1], profile)) if number + 1 < len(jobs) else []
        for partial in _best(beams[number], profile):
            beams[number + 1] += [partial.with_fills(fills, 1) for fills in single_fills]
            beams[number + 2] += [partial.with_fills(fills, 2) for fills in shared_fills]
    for program in beams[len(jobs)]:
        yield program.finished()


def _distinct(of_layer: LayerJobs) -> Iterator[Sequence[Job]]:
    """Yield the jobs of a layer for each tiling that differs from those before."""
    seen = set()
    for jobs in of_layer.values():
        shape = (len(jobs[0].works), *(job.vector.count for job in jobs))
        if shape not in seen:
            seen.add(shape)
            yield jobs


def _shared(first: LayerJobs, second: LayerJobs, profile: NpuProfile) -> Iterator[list[Fill]]:
    """Yield the fills of two layers that share banks, for each tiling."""
    for tiling, jobs in first.items():
        fills = interleaved(jobs, second[tiling], profile)
        if fills is not None:
            yield fills


def _best(partials: Sequence[Schedule], profile: NpuProfile) -> list[Schedule]:
    """Return the fastest partial programs that still fit the program memory."""
    fitting = [partial for partial in partials if len(partial.instructions) <= profile.instructions]
    return sorted(fitting, key=lambda partial: partial.scheduler.cycles_to_rest)[:BEAM_WIDTH]


def _uniform(jobs: Sequence[LayerJobs], profile: NpuProfile) -> Iterator[Schedule]:
    """Yield a program for each tiling, the same for all layers: large tiles have the fewest instructions."""
    for tiling in _tilings(profile):
        program = Schedule(Scheduler(profile))
        for of_layer in jobs:
            program = program.with_fills(single(of_layer[tiling], profile), 1)
        yield program.finished()
