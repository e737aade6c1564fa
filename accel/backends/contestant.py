"""The process that `contest` starts for one entrant: load, warm up, then run for a moment whenever it is asked to.

It reads an `Invitation` from the first line of its standard input; each further line asks for a turn. It writes one `Reply` per
line, and ends when its input does.
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
from accel.backends.contest import Invitation, Reply
from accel.latency import measure_latency, synthetic_inputs
from edgewright.contracts import wire
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import EdgewrightError

SETTLING_RUNS = 2
"""Runs at the start of a turn that do not count: threads wake up, caches fill again after the others' turns."""
FEWEST_RUNS = 3
WARM_UP_LIMIT_S = 5.0


def main() -> None:
    """Answer every line of standard input."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)  # whatever a library prints must not end up among the answers
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    invitation = wire.decode(questions.readline(), Invitation, what="the invitation")
    try:
        run = _warm(invitation)
        answers.write(_line(Reply()))
        for _ in questions:
            answers.write(_line(Reply(median_ms=_turn(run, invitation))))
    except EdgewrightError as failed:
        answers.write(_line(Reply(error=(type(failed).__name__, str(failed)))))


def _warm(invitation: Invitation) -> Callable[[], object]:
    """Load what the invitation names and run it until its times are stable."""
    module_name, _, attribute = invitation.backend.partition(":")
    backend: Backend = getattr(import_module(module_name), attribute)()
    variant = VariantDirectory.open(Path(invitation.variant))
    session = backend.load(variant, threads=invitation.threads)
    inputs = synthetic_inputs(variant.config.inputs, batch=1)
    measure_latency(lambda: session.run(inputs), runs=1, time_limit_s=WARM_UP_LIMIT_S)
    return lambda: session.run(inputs)


def _turn(run: Callable[[], object], invitation: Invitation) -> float:
    for _ in range(SETTLING_RUNS):
        run()
    times_ms: list[float] = []
    ends_at = time.perf_counter() + invitation.turn_limit_s
    while len(times_ms) < FEWEST_RUNS or (len(times_ms) < invitation.runs_per_turn and time.perf_counter() < ends_at):
        started = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - started) * 1000)
    return statistics.median(times_ms)


def _line(reply: Reply) -> bytes:
    return wire.encode(reply) + b"\n"


if __name__ == "__main__":
    main()
