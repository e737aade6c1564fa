"""The process that `benchmark.py` starts for one candidate: load, warm up, and run one round per request.

It reads a `BenchmarkRequest` from the first line of its standard input; each further line requests a round. It writes one
`BenchmarkReply` per line and ends with its input.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from accel.backends.backend import Backend
from accel.backends.benchmark import BenchmarkReply, BenchmarkRequest
from accel.latency import measure_latency, synthetic_inputs
from edgewright.contracts import wire
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError

SETTLING_RUNS = 2
"""Uncounted runs at the start of a round: threads wake up, and caches refill after the rounds of the others."""
FEWEST_RUNS = 3
WARM_UP_LIMIT_S = 5.0


def main() -> None:
    """Reply to every line of standard input."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)  # libraries print to descriptor 1, which must not mix with the replies
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    request = wire.decode(requests.readline(), BenchmarkRequest, what="the benchmark request")
    try:
        run = _warmed_up(request)
        replies.write(_line(BenchmarkReply()))
        for _ in requests:
            replies.write(_line(BenchmarkReply(median_ms=_round(run, request))))
    except EdgewrightError as error:
        replies.write(_line(BenchmarkReply(error=(type(error).__name__, str(error)))))


def _warmed_up(request: BenchmarkRequest) -> Callable[[], object]:
    """Load the requested variant and run it until its times are stable; return a call that runs it once."""
    module_name, _, attribute = request.backend.partition(":")
    backend: Backend = getattr(import_module(module_name), attribute)()
    variant = VariantDirectory.open(Path(request.variant))
    session = backend.load(variant, threads=request.threads)
    inputs = synthetic_inputs(variant.config.inputs, batch=1)
    measure_latency(lambda: session.run(inputs), runs=1, time_limit_s=WARM_UP_LIMIT_S)
    return lambda: session.run(inputs)


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


def _line(reply: BenchmarkReply) -> bytes:
    return wire.encode(reply) + b"\n"


if __name__ == "__main__":
    main()
