"""The process that `benchmark.py` starts for one candidate: load, warm up, and run one round per request.

The first request is a `BenchmarkRequest`, each further one requests a round; the results are `BenchmarkResult`
(edgewright/worker_process.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from accel.backends.backend import Backend
from accel.backends.benchmark import BenchmarkRequest, BenchmarkResult
from accel.latency import measure_latency, synthetic_inputs
from edgewright.contracts import wire
from edgewright.contracts.samples import Tensors, load_samples
from edgewright.contracts.variant import VariantDirectory
from edgewright.worker_process import serve

SETTLING_RUNS = 2
"""Uncounted runs at the start of a round: threads wake up, and caches refill after the rounds of the others."""
FEWEST_RUNS = 3
WARM_UP_LIMIT_S = 5.0


def main() -> None:
    """Answer every request on standard input."""
    serve(Rounds().handle, once=False)


class Rounds:
    """The variant that the first request loads; every further request runs one round of it."""

    def __init__(self) -> None:
        self._request: BenchmarkRequest | None = None
        self._run: Callable[[], object]

    def handle(self, raw: bytes) -> bytes:
        """Answer one request with a `BenchmarkResult`."""
        if self._request is not None:
            return wire.encode(BenchmarkResult(median_ms=_round(self._run, self._request)))
        self._request = wire.decode(raw, BenchmarkRequest, what="the benchmark request")
        self._run = _warmed_up(self._request)
        return wire.encode(BenchmarkResult())


def _warmed_up(request: BenchmarkRequest) -> Callable[[], object]:
    """Load the requested variant and run it until its times are stable; return a call that runs it once."""
    module_name, _, attribute = request.backend.partition(":")
    backend: Backend = getattr(import_module(module_name), attribute)()
    variant = VariantDirectory.open(Path(request.variant))
    session = backend.load(variant, threads=request.threads)
    inputs = _inputs(request, variant)
    measure_latency(lambda: session.run(inputs), runs=1, time_limit_s=WARM_UP_LIMIT_S)
    return lambda: session.run(inputs)


def _inputs(request: BenchmarkRequest, variant: VariantDirectory) -> Tensors:
    if request.sample is None:
        return synthetic_inputs(variant.config.inputs, batch=1)
    return load_samples(Path(request.sample), variant.config.inputs).slice(0, 1).inputs


def _round(run: Callable[[], object], request: BenchmarkRequest) -> float:
    """Return the median time of one round in milliseconds."""
    for _ in range(SETTLING_RUNS):
        run()
    times_ms: list[float] = []
    ends_at = time.perf_counter() + request.round_limit_s
    while len(times_ms) < FEWEST_RUNS or (len(times_ms) < request.runs_per_round and time.perf_counter() < ends_at):
        started = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - started) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    main()
