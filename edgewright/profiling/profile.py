"""Run a profile: search the smallest size that holds, confirm it, and measure its curve.

    1. search      bisection over processor time, at the rate that is asked for
    2. confirm     the size that was found, now with the recommended limit of memory
    3. halve       half of that processor time, which should not hold
    4. curve       latency over the rate, up to the first rate that is not held: the knee

Each measurement is stored when it is made, so an interrupted profile continues where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import MessageError, OperationError
from edgewright.profiling.limits import Method, Size
from edgewright.profiling.load_messages import LoadResult
from edgewright.profiling.search import Objective, candidates, curve_rates, memory_to_give, next_size, smallest_held
from edgewright.profiling.service import NotReadyError, ServiceOptions, running
from hardware_profiles.processors import usable_processors

MAX_LAG_SHARE = 0.5
"""Largest delay of the clients over the latency that is asked for; beyond, they and not the service are measured."""
_MEMORY_TRIES = 3
_BEST_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a profile; an interrupted profile continues only with equal settings."""

    target: str
    objective: Objective
    seconds: float = 5.0
    """Time of each measurement."""
    warm_up_s: float = 1.0
    cpus: tuple[float, ...] = ()
    """Sizes that may be tried; empty: all that this machine can enforce."""
    options: tuple[str, ...] = ()
    """Options of the service."""
    parallel: str = "threads"
    """Processes that a size decides: `workers` of a script or model, or `threads` of a backend."""
    method: Method = Method.CONTROL_GROUPS
    describes: bool = True
    """Also measure half of the recommended processor time, and the curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One load on one size."""

    step: str
    """`search`, `confirm`, `half` or `curve`."""
    cpu: float
    memory_limit_bytes: int | None
    processes: int
    """Workers or threads."""
    rate: float
    memory_bytes: int
    """Largest memory during the load."""
    is_held: bool
    result: LoadResult | None
    """None if the service did not start."""
    reason: str = ""
    """The reason why it did not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The smallest size that holds."""

    cpu: float
    memory_in_gb: float
    processes: int
    latency_ms: float
    """Of the confirming measurement, at the percentile of the objective."""
    memory_used_bytes: int
    knee: float | None = None
    """Highest measured rate that this size holds, in requests per second."""
    is_half_held: bool | None = None
    """True if half of the processor time holds too, so the recommendation may be too large; None if it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All measurements of a profile, and what follows from them."""

    settings: Settings
    machine: str
    measurements: tuple[Measurement, ...] = ()
    recommendation: Recommendation | None = None
    best_rate: float | None = None
    """If no size holds: the highest rate that the largest size held; None if it held none."""
    is_finished: bool = False


class Profile:
    """A profile of one service."""

    def __init__(
        self,
        settings: Settings,
        service: ServiceOptions,
        bodies: Sequence[bytes],
        *,
        machine: str,
        file: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Describe a profile; `file` holds its report, and a half-finished one with equal settings is continued."""
        self._service = service
        self._bodies = bodies
        self._file = file
        self._progress = progress
        self._sizes = settings.cpus or candidates(usable_processors(), is_fractional=settings.method is Method.CONTROL_GROUPS)
        empty = Report(settings=settings, machine=machine)
        self.report = (file and _unfinished(file, empty)) or empty

    def run(self) -> Report:
        """Measure what is missing and return the report.

        Raises:
            OperationError: the clients cannot send at this rate, or the service does not start at any size.
        """
        held: dict[float, bool] = {}
        while (cpu := next_size(self._sizes, held)) is not None:
            held[cpu] = self._measure("search", Size(cpu=cpu)).is_held
        recommendation = None
        while recommendation is None and (cpu := smallest_held(self._sizes, held)) is not None:
            recommendation = self._confirmed(cpu)
            held[cpu] = recommendation is not None
            if recommendation is None:
                while (larger := next_size(self._sizes, held)) is not None:
                    held[larger] = self._measure("search", Size(cpu=larger)).is_held
        if recommendation is None:
            return self._finish(best_rate=self._best_rate())
        return self._finish(recommendation=self._described(recommendation) if self.report.settings.describes else recommendation)

    def _confirmed(self, cpu: float) -> Recommendation | None:
        """Return the recommendation for a processor time; None if it does not hold again."""
        used = max(each.memory_bytes for each in self.report.measurements if each.cpu == cpu)
        memory_bytes = memory_to_give(used)
        for _ in range(_MEMORY_TRIES if self.report.settings.method is Method.CONTROL_GROUPS else 1):
            measured = self._measure("confirm", Size(cpu=cpu, memory_bytes=memory_bytes))
            latency_ms = None if measured.result is None else self._objective.latency_of(measured.result)
            if measured.is_held and latency_ms is not None:
                return Recommendation(
                    cpu=cpu,
                    memory_in_gb=round(memory_bytes / 1e9, 1),
                    processes=measured.processes,
                    latency_ms=latency_ms,
                    memory_used_bytes=measured.memory_bytes,
                )
            if measured.result is not None and not measured.result.failures:
                return None  # too slow, which more memory does not change
            memory_bytes = memory_to_give(round(memory_bytes * 1.2))
        return None

    def _described(self, recommendation: Recommendation) -> Recommendation:
        """Add whether half the processor time holds, and the knee."""
        memory_bytes = round(recommendation.memory_in_gb * 1e9)
        half = None
        if self.report.settings.method is Method.CONTROL_GROUPS:
            half = self._measure("half", Size(cpu=recommendation.cpu / 2, memory_bytes=memory_bytes)).is_held
        knee = None
        for rate in curve_rates(self._objective.rate):
            measured = self._measure("curve", Size(cpu=recommendation.cpu, memory_bytes=memory_bytes), rate)
            if measured.is_held:
                knee = rate
            elif rate > self._objective.rate:
                break
        return replace(recommendation, knee=knee, is_half_held=half)

    def _best_rate(self) -> float | None:
        """Return the highest rate of a few that the largest size holds."""
        rate = self._objective.rate
        for _ in range(_BEST_TRIES):
            rate /= 2
            if self._measure("curve", Size(cpu=self._sizes[-1]), rate).is_held:
                return rate
        return None

    @property
    def _objective(self) -> Objective:
        return self.report.settings.objective

    def _measure(self, step: str, size: Size, rate: float | None = None) -> Measurement:
        """Return a measurement: the stored one of an interrupted profile, or a new one."""
        rate = rate or self._objective.rate
        for each in self.report.measurements:
            if (each.step, each.cpu, each.memory_limit_bytes, each.rate) == (step, size.cpu, size.memory_bytes, rate):
                return each
        self._progress(f"{step}: {size.cpu:g} CPU at {rate:g} requests/s")
        measured = self._new_measurement(step, size, rate)
        self._store(replace(self.report, measurements=(*self.report.measurements, measured)))
        return measured

    def _new_measurement(self, step: str, size: Size, rate: float) -> Measurement:
        settings, processes = self.report.settings, max(1, math.ceil(size.cpu))
        result, memory_bytes, reason = None, 0, ""
        try:
            with running(self._service, size, processes, settings.method) as service:
                result, memory_bytes = service.load(
                    self._bodies,
                    rate,
                    seconds=settings.seconds,
                    warm_up_s=settings.warm_up_s,
                    seed=len(self.report.measurements),
                )
        except NotReadyError as error:
            if size.cpu == self._sizes[-1] and size.memory_bytes is None:
                raise
            reason = str(error)
        if result is not None:
            self._check_requests(result)
        return Measurement(
            step=step,
            cpu=size.cpu,
            memory_limit_bytes=size.memory_bytes,
            processes=processes,
            rate=rate,
            memory_bytes=memory_bytes,
            is_held=result is not None and self._objective.is_held(result),
            result=result,
            reason=reason,
        )

    def _check_requests(self, result: LoadResult) -> None:
        refused = {status: count for status, count in result.failures.items() if status.startswith("4")}
        if refused and sum(refused.values()) == result.sent:
            raise OperationError(
                f"the service must accept the samples, but it answered {', '.join(sorted(refused))} to all {result.sent} "
                "requests: score one of them with 'edgewright serve' to see the reason"
            )
        if result.lag_ms > MAX_LAG_SHARE * self._objective.latency_ms:
            raise OperationError(
                f"the clients must send {result.rate:g} requests/s in time, but this machine delays them by "
                f"{result.lag_ms:.1f} ms: ask for a lower rate, or free a processor"
            )

    def _finish(self, *, recommendation: Recommendation | None = None, best_rate: float | None = None) -> Report:
        self._store(replace(self.report, recommendation=recommendation, best_rate=best_rate, is_finished=True))
        return self.report

    def _store(self, report: Report) -> None:
        self.report = report
        if self._file is not None:
            write_atomically(self._file, wire.encode(report))


def _unfinished(file: Path, empty: Report) -> Report | None:
    """Return the stored report of an interrupted profile of the same settings and machine; None if another is to begin."""
    try:
        stored = wire.decode(file.read_bytes(), Report, what=str(file))
    except (OSError, MessageError):
        return None
    same = (stored.settings, stored.machine) == (empty.settings, empty.machine)
    return stored if same and not stored.is_finished else None
