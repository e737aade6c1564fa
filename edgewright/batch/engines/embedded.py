"""Run tasks on this machine: in threads of this process while the job may be short, then in worker processes.

A thread costs nothing to start, and the runtimes of models release the interpreter's lock. A worker process costs a second, but
survives neither a crash nor its time limit, and takes nothing with it. So a script always runs in worker processes, and a model
after `IN_PROCESS_S`, or if an earlier run of the job was interrupted.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgewright.batch.job import BatchJob
from edgewright.batch.runner import Place, StoppedError, WorkerRunner
from edgewright.batch.scorers import Scorer, open_scorer
from edgewright.batch.task_run import run_task
from edgewright.batch.tasks import Outcome, Task
from edgewright.serving.nocode.identify import Framework, framework_of, model_in
from hardware_profiles.processors import usable_processors

IN_PROCESS_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a job stores parts and logs."""

    parts: Path
    logs: Path


class _Runner(Protocol):
    def run(self, task: Task) -> Outcome: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


def run_embedded(job: BatchJob, tasks: Sequence[Task], folders: Folders, *, is_resumed: bool) -> Iterator[Outcome]:
    """Yield the outcome of each task, in the order in which they end.

    Raises:
        EdgewrightError: the model or script cannot be opened, or a part cannot be stored.
    """
    pending = deque(tasks)
    shares = _shares(job.workers or usable_processors(), len(tasks))
    if not is_resumed and _may_run_in_process(job):
        with open_scorer(job, threads=len(shares[0])) as scorer:
            runners: list[_Runner] = [_InProcessRunner(job, scorer, folders.parts) for _ in shares]
            yield from _in_parallel(runners, pending, until_s=time.monotonic() + IN_PROCESS_S)
    if pending:
        workers: list[_Runner] = []
        for number, share in enumerate(_shares(job.workers or usable_processors(), len(pending))):
            log = folders.logs / f"worker-{number}.log"
            workers.append(WorkerRunner(job, Place(parts=folders.parts, log=log, processors=share, threads=len(share))))
        yield from _in_parallel(workers, pending)


def _may_run_in_process(job: BatchJob) -> bool:
    if job.script is not None:
        return False
    return framework_of(model_in(Path(str(job.model)))) in (None, Framework.ONNX)


def _shares(workers: int, tasks: int) -> list[tuple[int, ...]]:
    """Return the processors of each worker; several workers share one if there are more workers."""
    usable = sorted(os.sched_getaffinity(0))[: usable_processors()]
    count = max(1, min(workers, tasks))
    if count >= len(usable):
        return [(usable[number % len(usable)],) for number in range(count)]
    return [tuple(usable[number::count]) for number in range(count)]


class _InProcessRunner:
    """Runs tasks in the thread that calls it."""

    def __init__(self, job: BatchJob, scorer: Scorer, parts: Path) -> None:
        self._job = job
        self._scorer = scorer
        self._parts = parts
        self._stopped = False

    def run(self, task: Task) -> Outcome:
        return run_task(self._job, task, self._scorer, self._parts, begin=self._check)

    def _check(self, _number: int) -> None:
        if self._stopped:
            raise StoppedError("the job was stopped")

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._stopped = True


def _in_parallel(runners: Sequence[_Runner], pending: deque[Task], until_s: float = float("inf")) -> Iterator[Outcome]:
    """Run the tasks with one thread per runner; tasks that none has begun at `until_s` stay in `pending`."""
    results: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(runner: _Runner) -> None:
        try:
            while not stopped.is_set() and time.monotonic() < until_s:
                results.put(runner.run(pending.popleft()))
        except IndexError:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            results.put(error)
        finally:
            results.put(None)

    threads = [threading.Thread(target=work, args=[runner], name="batch", daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                left -= 1
            else:
                yield result
    finally:
        stopped.set()
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join()
        for runner in runners:
            with contextlib.suppress(OSError):
                runner.close()
