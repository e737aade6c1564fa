"""Score files and tables in batches, so that every row is scored exactly once although a process may be killed at any time.

driver      run a job from its inputs to its output: read this first
job         the description of a job, and its file
inputs      list the input files
plan        divide the inputs into tasks
ledger      the record of tasks and failures (SQLite), from which an interrupted job continues
task_run    one task: read it, score its mini-batches, write its part of the output
mini_batches, scorers, results   the reader, the model or script, and the results as an Arrow table
worker      the worker process; runner is its supervisor: time limits, restarts and retries
engines/    where tasks run: threads and worker processes of this machine, or a cluster
assembly    the output file from the parts
report      counts, grouped errors and times of a job
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewright.batch.job import BatchJob
    from edgewright.batch.report import BatchReport


def run(job: BatchJob) -> BatchReport:
    """Run a job, or continue it; see `edgewright.batch.driver.run_job`."""
    from edgewright.batch.driver import run_job  # loads pyarrow

    return run_job(job)
