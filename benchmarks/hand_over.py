"""Measure the hand-over of a request to a worker process, beside the same script called in this process.

    .venv/bin/python -P benchmarks/hand_over.py [--seconds S] [--rounds N]

A script that returns at once is called in three ways: in this process, with conversion of the request and the answer; in a
worker, one call at a time; and in a worker with 16 calls open. There is no HTTP. `CPU_US` is processor time per call of the
process of the server and of the worker, `P50_US` the latency. The difference to the first line is the price of isolation. The
best of the rounds counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import uvloop

from edgewright.command_line import print_table
from edgewright.serving.scripts.calls import ScriptCalls
from edgewright.serving.scripts.entry_script import EntryScript
from edgewright.serving.scripts.messages import Call
from edgewright.serving.scripts.options import ScriptOptions
from edgewright.serving.scripts.pool import ScriptPool

SCRIPT = "def init():\n    pass\n\n\ndef run(data):\n    return [4]\n"
BODY = json.dumps({"data": np.random.default_rng(0).random((1, 64)).round(4).tolist()}).encode()
CALL = Call(request_id="00000000-0000-4000-8000-000000000001")
WARM_UP_CALLS = 500


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures per call, in microseconds."""

    server_cpu_us: float
    worker_cpu_us: float
    p50_us: float


async def main() -> None:
    """Measure the three ways and print the table."""
    parser = argparse.ArgumentParser(description="Measure the hand-over of a request to a worker process.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "score.py"
        script.write_text(SCRIPT)
        calls = ScriptCalls(EntryScript.load(script, None))

        async def here() -> None:
            decoded = calls.decoded(CALL, BODY)
            calls.encoded(calls.script.run(**decoded.arguments), decoded)

        pool = ScriptPool(ScriptOptions(path=script))
        await pool.start()
        (worker,) = psutil.Process().children()

        async def handed_over() -> None:
            await pool.call(CALL, BODY)

        ways = {"in this process": (here, 1), "worker, 1 open call": (handed_over, 1), "worker, 16 open calls": (handed_over, 16)}
        rounds = [
            {name: await measured(call, open_calls, worker, options.seconds) for name, (call, open_calls) in ways.items()}
            for _ in range(options.rounds)
        ]
        await pool.close()
    lines = []
    for name in ways:
        best = min((each[name] for each in rounds), key=lambda one: one.server_cpu_us + one.worker_cpu_us)
        p50_us = min(each[name].p50_us for each in rounds)
        lines.append((name, round(best.server_cpu_us, 1), round(best.worker_cpu_us, 1), round(p50_us, 1)))
    print_table(("CALLED", "SERVER_CPU_US", "WORKER_CPU_US", "P50_US"), lines)
    print(f"load average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


async def measured(call: Callable[[], Awaitable[None]], open_calls: int, worker: psutil.Process, seconds: float) -> Measured:
    """Call as often as possible for some seconds."""
    latencies_s: list[float] = []
    until_s = 0.0

    async def repeat() -> None:
        while time.perf_counter() < until_s:
            started_s = time.perf_counter()
            await call()
            latencies_s.append(time.perf_counter() - started_s)

    for _ in range(WARM_UP_CALLS):
        await call()
    before_s, worker_before_s = own_cpu_s(), cpu_s(worker)
    until_s = time.perf_counter() + seconds
    await asyncio.gather(*(repeat() for _ in range(open_calls)))
    scale = 1e6 / len(latencies_s)
    p50_us = float(np.median(latencies_s)) * 1e6
    return Measured((own_cpu_s() - before_s) * scale, (cpu_s(worker) - worker_before_s) * scale, p50_us)


def own_cpu_s() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time of another process."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    uvloop.run(main())
