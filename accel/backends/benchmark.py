"""Benchmark candidates side by side: each variant on its backend in a separate process, one round after the other.

    start       one worker process per candidate (benchmark_worker.py) loads its variant and warms up
    rounds      one worker runs at a time while the others wait
    result      the median of each candidate's rounds

The candidates alternate, because a machine that is busy for a second would otherwise slow down only one of them. Each has a
process, because runtimes disturb each other within one: onnxruntime needed 20.1 ms for a ResNet-50 that takes it 11.8 ms, after
OpenVINO had been loaded and closed in the same process. A candidate that is much slower than the fastest after two rounds skips
the remaining rounds and keeps its times.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.backends.backend import Backend
from edgewright.contracts import wire
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError, OperationError
from edgewright.worker_process import WorkerProcess

ROUNDS = 5
ROUNDS_BEFORE_SKIPPING = 2
SKIP_FACTOR = 1.5
"""A candidate whose median is above this multiple of the fastest one's skips the remaining rounds."""
RUNS_PER_ROUND = 20
ROUND_LIMIT_S = 0.8
"""Time after which a round ends early; it has at least three runs."""
RESULT_LIMIT_S = 120.0
"""Time limit for a worker to load and warm up, and for one round."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A variant on a backend."""

    variant: VariantDirectory
    backend: Backend

    @property
    def name(self) -> str:
        """Display name and cache key."""
        return f"{self.variant.config.variant} on {self.backend.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """The first request to a worker; every further one requests a round."""

    variant: str
    """The path of the variant's directory."""
    backend: str
    """The backend's class, `module:name`."""
    threads: int | None
    runs_per_round: int
    round_limit_s: float
    sample: str | None = None
    """A `.npz` with the inputs to run; None takes synthetic ones, whose free axes have size 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """The result of a worker's request: ready (None), or the median time of a round."""

    median_ms: float | None = None


def benchmark_candidates(
    candidates: Sequence[Candidate], *, threads: int | None, sample: Path | None = None
) -> dict[Candidate, float]:
    """Return the milliseconds that one sample takes each candidate, without those that fail to load or to run.

    `sample` is a `.npz` with the inputs of one sample; None takes synthetic ones.

    Raises:
        EdgewrightError: all candidates fail; the error is that of the first.
    """
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(_started(candidate, threads, sample)) for candidate in candidates]
        for worker in workers:
            worker.wait_until_ready()
        for round_number in range(ROUNDS):
            for worker in _taking_part(workers, round_number):
                worker.run_round()
    times_ms = {worker.candidate: worker.median_ms for worker in workers if worker.failure is None}
    if not times_ms:
        raise workers[0].failure or OperationError("a benchmark needs a candidate")
    return times_ms


def _taking_part(workers: Sequence[Worker], round_number: int) -> list[Worker]:
    able = [worker for worker in workers if worker.failure is None]
    if round_number < ROUNDS_BEFORE_SKIPPING or not able:
        return able
    fastest_ms = min(worker.median_ms for worker in able)
    return [worker for worker in able if worker.median_ms <= SKIP_FACTOR * fastest_ms]


class Worker:
    """The parent's handle to the process of one candidate."""

    def __init__(self, candidate: Candidate, process: WorkerProcess) -> None:
        self.candidate = candidate
        self.failure: EdgewrightError | None = None
        self._process = process
        self._times_ms: list[float] = []

    @property
    def median_ms(self) -> float:
        """The median of all rounds so far."""
        return statistics.median(self._times_ms)

    def wait_until_ready(self) -> None:
        """Wait until the worker has loaded its variant and warmed up, or has failed."""
        self._receive()

    def run_round(self) -> None:
        """Request one round and keep its time."""
        self._process.send(b"{}")
        median_ms = self._receive()
        if median_ms is not None:
            self._times_ms.append(median_ms)

    def _receive(self) -> float | None:
        """Wait for a result; an error, or the end of the process, becomes `failure`."""
        try:
            result = self._process.receive(limit_s=RESULT_LIMIT_S)
        except EdgewrightError as error:
            self.failure = error
            return None
        return wire.decode(result, BenchmarkResult, what="the benchmark result", error=OperationError).median_ms


@contextlib.contextmanager
def _started(candidate: Candidate, threads: int | None, sample: Path | None) -> Iterator[Worker]:
    """Start a candidate's worker and let it load its variant; end it when the block ends."""
    kind = type(candidate.backend)
    request = BenchmarkRequest(
        variant=str(candidate.variant.path.absolute()),
        backend=f"{kind.__module__}:{kind.__qualname__}",
        threads=threads,
        runs_per_round=RUNS_PER_ROUND,
        round_limit_s=ROUND_LIMIT_S,
        sample=None if sample is None else str(sample.absolute()),
    )
    with WorkerProcess("accel.backends.benchmark_worker", subject=candidate.name) as process:
        process.send(wire.encode(request))
        yield Worker(candidate, process)
