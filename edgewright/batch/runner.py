"""Run tasks in a worker process that may be killed: start it, limit its times, replace it, and try a mini-batch again.

One runner has one worker process and is used by one thread. `stop` may be called by another.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from edgewright.batch.job import BatchJob
from edgewright.batch.task_run import OUTSIDE, failed_task
from edgewright.batch.tasks import Outcome, Task
from edgewright.batch.worker import BEGIN, READY, WorkerRequest, WorkerSettings
from edgewright.contracts import wire
from edgewright.errors import EdgewrightError, OperationError
from edgewright.worker_process import RESULT, describe_end, read_answer

READ_LIMIT_S = 600.0
"""Time that a task may read or write between two mini-batches."""
_LOG_TAIL_BYTES = 4000


class StoppedError(EdgewrightError):
    """A runner that was stopped while it ran a task."""


class _EndedError(Exception):
    """A worker that ended, or was ended, during the mini-batch `number`."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Folders of a job and the part of the machine that a runner uses."""

    parts: Path
    log: Path
    """The output of the worker is appended to this file."""
    processors: tuple[int, ...]
    threads: int


class WorkerRunner:
    """Runs tasks in a worker process."""

    def __init__(self, job: BatchJob, place: Place) -> None:
        self._job = job
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = -1
        self._received = b""
        self._stopped = False

    def run(self, task: Task) -> Outcome:
        """Return the outcome of a task, after as many tries of its mini-batches as the job allows.

        Raises:
            EdgewrightError: the worker cannot start, or cannot store the part.
            StoppedError: `stop` was called.
        """
        tries: Counter[int] = Counter()
        given_up: dict[int, str] = {}
        while True:
            try:
                self._start()
                outcome = self._ask(WorkerRequest(task=task, given_up=tuple(given_up.items())))
            except _EndedError as end:
                self._end()
                tries[end.number] += 1
                if tries[end.number] < self._job.run_max_try:
                    continue
                if end.number == OUTSIDE:
                    return failed_task(task, end.reason)
                given_up[end.number] = end.reason
            else:
                return replace(outcome, worker=self._place.log.stem)

    def stop(self) -> None:
        """End the worker process at once; a `run` in another thread raises `StoppedError`."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the worker process and wait for its end."""
        self._stopped = True
        self._end()

    def _start(self) -> None:
        if self._process is not None:
            return
        if self._stopped:
            raise StoppedError("the job was stopped")
        settings = WorkerSettings(
            job=self._job, parts=str(self._place.parts), threads=self._place.threads, processors=self._place.processors
        )
        self._messages, theirs = os.pipe()
        try:
            with self._place.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "edgewright.batch.worker", str(theirs), wire.encode(settings).decode()],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs],
                    env=_environment(self._place.threads),
                    start_new_session=True,  # Ctrl-C reaches this process alone, which ends its workers
                )
        finally:
            os.close(theirs)
        self._received = b""
        line = self._message(self._job.init_timeout, OUTSIDE, "start")
        if line != READY:
            self._refused(line)

    def _ask(self, request: WorkerRequest) -> Outcome:
        assert self._process is not None
        assert self._process.stdin is not None
        number = OUTSIDE
        try:
            self._process.stdin.write(wire.encode(request) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise _EndedError(OUTSIDE, self._how_it_ended()) from error
        while True:
            limit_s = READ_LIMIT_S if number == OUTSIDE else self._job.run_invocation_timeout
            line = self._message(limit_s, number, "run")
            if line.startswith(BEGIN):
                number = int(line.removeprefix(BEGIN))
            elif line.startswith(RESULT):
                return wire.decode(line.removeprefix(RESULT), Outcome, what="the outcome of a task")
            else:
                self._refused(line)

    def _refused(self, line: bytes) -> None:
        """Raise the error that a worker sent."""
        self._end()
        read_answer(line)

    def _message(self, limit_s: float, number: int, phase: str) -> bytes:
        """Return the next line of the worker.

        Raises:
            _EndedError: none came in time, or the worker ended.
        """
        until_s = time.monotonic() + limit_s
        while b"\n" not in self._received:
            waited = select.select([self._messages], [], [], max(0.0, until_s - time.monotonic()))[0]
            if not waited:
                self._late(limit_s, number, phase)
            piece = os.read(self._messages, 1 << 16)
            if not piece:
                self._ended(number, phase)
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _late(self, limit_s: float, number: int, phase: str) -> None:
        if phase == "start":
            self._end()
            raise OperationError(f"{self._subject} must start within {limit_s:g} s, but it did not: raise init_timeout")
        what = "reading and writing" if number == OUTSIDE else "run()" if self._job.script else "scoring"
        raise _EndedError(number, f"{what} must end within {limit_s:g} s, but it did not")

    def _ended(self, number: int, phase: str) -> None:
        if self._stopped:
            raise StoppedError("the job was stopped")
        reason = self._how_it_ended()
        if phase == "start" and not reason.endswith("SIGKILL"):
            raise OperationError(f"{self._subject} must start, but {reason}")
        raise _EndedError(number, reason)

    def _how_it_ended(self) -> str:
        assert self._process is not None
        exit_code = self._process.wait()
        tail = self._place.log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
        return f"the worker process {describe_end(exit_code, tail)}"

    @property
    def _subject(self) -> str:
        return f"init() of {Path(self._job.script).name}" if self._job.script else str(self._job.model)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
            os.close(self._messages)


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker, which sees the same packages as this process and its share of the processors."""
    paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {name: os.environ.get(name, str(threads)) for name in names}
    return {**os.environ, **limits, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
