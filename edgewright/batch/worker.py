"""The worker process: `python -m edgewright.batch.worker FD SETTINGS`.

It opens the model or script, and runs one task after the other: requests are lines of JSON on standard input, messages are lines
on the descriptor FD. It ends when standard input closes, also in the middle of a task, so no worker outlives its supervisor.

    ready            the model or script is open
    begin NUMBER     the mini-batch starts, or -1: the task reads or writes
    result JSON      the outcome of the task
    error JSON       the worker cannot continue; see `edgewright.worker_process`
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from edgewright.batch.job import BatchJob
from edgewright.batch.scorers import Scorer, open_scorer
from edgewright.batch.task_run import run_task
from edgewright.batch.tasks import Task
from edgewright.contracts import wire
from edgewright.errors import EdgewrightError
from edgewright.worker_process import RESULT, encoded_error

READY, BEGIN = b"ready", b"begin "


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The argument of a worker process."""

    job: BatchJob
    parts: str
    """The folder of the parts."""
    threads: int
    processors: tuple[int, ...] = ()
    """Those that the process may use; empty for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest:
    """A task for a worker process."""

    task: Task
    given_up: tuple[tuple[int, str], ...] = ()
    """Numbers of mini-batches that are not tried again, and the reasons."""


def main(descriptor: int, raw: str) -> None:
    """Run tasks until standard input closes."""
    os.dup2(2, 1)  # what a script prints belongs to the log
    settings = wire.decode(raw, WorkerSettings, what="the settings of a worker")
    if settings.processors:
        os.sched_setaffinity(0, settings.processors)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=[requests], name="requests", daemon=True).start()
    try:
        with open_scorer(settings.job, threads=settings.threads) as scorer:
            _write(descriptor, READY + b"\n")
            while True:
                _serve(settings, scorer, requests.get(), descriptor)
    except EdgewrightError as error:
        _write(descriptor, encoded_error(error) + b"\n")


def _serve(settings: WorkerSettings, scorer: Scorer, line: bytes, descriptor: int) -> None:
    request = wire.decode(line, WorkerRequest, what="the request to a worker")
    outcome = run_task(
        settings.job,
        request.task,
        scorer,
        Path(settings.parts),
        given_up=dict(request.given_up),
        begin=lambda number: _write(descriptor, b"%s%d\n" % (BEGIN, number)),
    )
    _write(descriptor, RESULT + wire.encode(outcome) + b"\n")


def _write(descriptor: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(descriptor, view) :]


def _receive(requests: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
