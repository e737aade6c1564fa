"""Benchmark candidates side by side: each variant on its backend in a process of its own, one round after the other.

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
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from accel.backends.backend import Backend
from edgewright import errors
from edgewright.contracts import wire
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError, OperationError

ROUNDS = 5
ROUNDS_BEFORE_SKIPPING = 2
SKIP_FACTOR = 1.5
"""A candidate whose median is above this multiple of the fastest one's skips the remaining rounds."""
RUNS_PER_ROUND = 20
ROUND_LIMIT_S = 0.8
"""Time after which a round ends early; it has at least three runs."""
REPLY_LIMIT_S = 120.0
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
    """The first line that a worker reads; every further line requests a round."""

    variant: str
    """The path of the variant's directory."""
    backend: str
    """The backend's class, `module:name`."""
    threads: int | None
    runs_per_round: int
    round_limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReply:
    """A line that a worker writes: ready (both fields None), the median time of a round, or an error as (class, text)."""

    median_ms: float | None = None
    error: tuple[str, str] | None = None


def benchmark_candidates(candidates: Sequence[Candidate], *, threads: int | None) -> dict[Candidate, float]:
    """Return the milliseconds that one sample takes each candidate, without those that fail to load or to run.

    Raises:
        EdgewrightError: all candidates fail; the error is that of the first.
    """
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(_started(candidate, threads)) for candidate in candidates]
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

    def __init__(self, candidate: Candidate, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.candidate = candidate
        self.failure: EdgewrightError | None = None
        self._process = process
        self._requests: IO[bytes] = process.stdin
        self._replies: IO[bytes] = process.stdout
        self._times_ms: list[float] = []

    @property
    def median_ms(self) -> float:
        """The median of all rounds so far."""
        return statistics.median(self._times_ms)

    def send(self, line: bytes) -> None:
        """Write a line; the next read detects a process that has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(line + b"\n")
            self._requests.flush()

    def wait_until_ready(self) -> None:
        """Wait until the worker has loaded its variant and warmed up, or has failed."""
        self._receive()

    def run_round(self) -> None:
        """Request one round and keep its time."""
        self.send(b"round")
        median_ms = self._receive()
        if median_ms is not None:
            self._times_ms.append(median_ms)

    def _receive(self) -> float | None:
        """Wait for a reply; an error, or the end of the process, becomes `failure`."""
        timer = threading.Timer(REPLY_LIMIT_S, self._process.kill)
        timer.start()
        try:
            line = self._replies.readline()
        finally:
            timer.cancel()
        if not line:
            self.failure = OperationError(
                f"{self.candidate.name}: the benchmark worker must reply within {REPLY_LIMIT_S:.0f} s, "
                f"but it ended with {self._process.wait()}"
            )
            return None
        reply = wire.decode(line, BenchmarkReply, what="the benchmark worker's reply", error=OperationError)
        if reply.error is not None:
            kind, text = reply.error
            error_class: type[EdgewrightError] = getattr(errors, kind, OperationError)
            self.failure = error_class(text)
        return reply.median_ms


@contextlib.contextmanager
def _started(candidate: Candidate, threads: int | None) -> Iterator[Worker]:
    """Start a candidate's worker with the import path of this process; kill it when the block ends."""
    kind = type(candidate.backend)
    request = BenchmarkRequest(
        variant=str(candidate.variant.path.absolute()),
        backend=f"{kind.__module__}:{kind.__qualname__}",
        threads=threads,
        runs_per_round=RUNS_PER_ROUND,
        round_limit_s=ROUND_LIMIT_S,
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "accel.backends.benchmark_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(place).absolute()) for place in sys.path if place)},
    )
    worker = Worker(candidate, process)
    try:
        worker.send(wire.encode(request))
        yield worker
    finally:
        process.kill()
        process.communicate()
