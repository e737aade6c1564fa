"""Run one task: read it, score its mini-batches, and write its part.

A mini-batch is tried `run_max_try` times. One that ends its process or exceeds its time is tried again by the supervisor of the
process, which passes those that were tried often enough as `given_up`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from edgewright.batch.job import BatchJob, OutputAction
from edgewright.batch.mini_batches import MiniBatch, mini_batches
from edgewright.batch.results import joined, part_path, write_part
from edgewright.batch.scorers import Scored, Scorer
from edgewright.batch.tasks import Failure, Outcome, Task
from edgewright.errors import BadInputError, OperationError, StorageFullError, one_line

OUTSIDE = -1
"""Stands for the number of a mini-batch while the task reads or writes."""


def run_task(
    job: BatchJob,
    task: Task,
    scorer: Scorer,
    parts: Path,
    *,
    given_up: Mapping[int, str] | None = None,
    begin: Callable[[int], None] = lambda number: None,
) -> Outcome:
    """Return the outcome of a task, after its part is written to the folder `parts`; `begin` is called before each step.

    Raises:
        OperationError: the results of the mini-batches do not fit together, or the disk is full.
        NotWritableError: the folder cannot be written.
    """
    started_s, started_cpu_s = time.perf_counter(), time.thread_time()
    counts = [0, 0]
    tables: list[pa.Table] = []
    failures: list[Failure] = []
    batches = mini_batches(job, task)
    try:
        begin(OUTSIDE)
        for number, batch in enumerate(batches):
            scored = _tried(job, batch, number, scorer, given_up or {}, begin)
            counts = [counts[0] + batch.count, number + 1]
            failures += scored.failures
            if job.output_action is not OutputAction.SUMMARY_ONLY:
                tables.append(scored.table)
            begin(OUTSIDE)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and not _is_read_error(error, task):
            raise
        missing = max(1, (task.count or 0) - counts[0])
        failures.append(Failure(item=task.paths[0], count=missing, error=f"cannot be read: {one_line(error)}"))
        counts[0] += missing
    table = joined(tables, job.script or str(job.model))
    if table.num_rows:
        write_part(table, part_path(parts, task.number, job.output_action))
    return Outcome(
        task=task.number,
        count=counts[0],
        succeeded=counts[0] - sum(failure.count for failure in failures),
        mini_batches=counts[1],
        failures=tuple(failures),
        row_count=table.num_rows,
        run_s=time.perf_counter() - started_s,
        cpu_s=time.thread_time() - started_cpu_s,
    )


def failed_task(task: Task, reason: str) -> Outcome:
    """Return the outcome of a task whose process ended each time while it read or wrote."""
    count = task.count or 1
    failure = Failure(item=task.paths[0], count=count, error=reason)
    return Outcome(task=task.number, count=count, succeeded=0, mini_batches=0, failures=(failure,))


def _is_read_error(error: OSError, task: Task) -> bool:
    """Return True for an error of reading; pyarrow raises OSError without a file name for damaged data."""
    return error.filename is None or str(error.filename) in task.paths


def _tried(
    job: BatchJob, batch: MiniBatch, number: int, scorer: Scorer, given_up: Mapping[int, str], begin: Callable[[int], None]
) -> Scored:
    reason = given_up.get(number)
    for _ in range(job.run_max_try if reason is None else 0):
        begin(number)
        try:
            return scorer(batch)
        except StorageFullError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a script or runtime raises
            reason = _described(error)
            if isinstance(error, BadInputError):  # the same input is refused again
                break
    failure = Failure(item=batch.item, count=batch.count, error=str(reason), mini_batch=number)
    return Scored(pa.table({}), (failure,))


def _described(error: BaseException) -> str:
    if isinstance(error, BadInputError | OperationError):
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}"
