"""Run a batch job: plan it or continue it, run its tasks, record them, and assemble the output.

    output/predictions.parquet       the results (append_row), or part-000000.parquet, … (parts)
    output/_report.json              the report
    output/_failures.jsonl           every row or file without a result
    output/.edgewright-batch/        the ledger, parts that are not assembled yet, and the logs of the workers

The same job with the same inputs continues where an earlier run ended, whatever ended it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.batch.assembly import assemble
from edgewright.batch.engines.embedded import Folders, run_embedded
from edgewright.batch.inputs import InputFile, kind_of, list_inputs
from edgewright.batch.job import BatchJob, Engine, OutputAction
from edgewright.batch.ledger import JobState, Ledger, locked
from edgewright.batch.plan import make_plan
from edgewright.batch.report import BatchReport, Tally, grouped, reason_to_stop
from edgewright.batch.results import part_path
from edgewright.batch.tasks import Failure, Outcome, Task
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically, writing_atomically
from edgewright.errors import BadInputError, ConflictError, EdgewrightError

STATE_FOLDER = ".edgewright-batch"
REPORT_FILE, FAILURES_FILE = "_report.json", "_failures.jsonl"

Progress = Callable[[int, int], None]
"""Gets the number of tasks that are done, and of all tasks."""


@dataclass(frozen=True, slots=True)
class _Paths:
    """The files of a job."""

    output: Path

    @property
    def state(self) -> Path:
        return self.output / STATE_FOLDER

    def folders(self, job: BatchJob) -> Folders:
        """Return the folders of parts and logs; the parts are the output itself if nothing is assembled."""
        parts = self.output if job.output_action is OutputAction.PARTS else self.state / "parts"
        return Folders(parts=parts, logs=self.state / "logs")


def run_job(
    job: BatchJob, *, overwrite: bool = False, retry_failed: bool = False, progress: Progress | None = None
) -> BatchReport:
    """Run a job to its end, or continue it; a job that is complete returns its report.

    Args:
        job: the job.
        overwrite: remove what another job left in the output folder.
        retry_failed: score the tasks again that have failures.
        progress: called after each task.

    Raises:
        BadInputError: an input is missing, the output folder has other content, or the model or script cannot be used.
        ConflictError: another process works on the job, or it began with other options or inputs.
        OperationError: `init` failed, or the disk is full.
    """
    paths = _Paths(Path(job.output))
    if job.output_action is OutputAction.APPEND_ROW and Path(job.output).is_file():
        raise BadInputError(f"{job.output} must be a folder for the output, but it is a file")
    _check_output(paths, overwrite=overwrite)
    files = list_inputs(job.input, outside=paths.output.resolve())
    with locked(paths.state):
        if overwrite:
            _clear(paths)
        ledger = Ledger(paths.state)
        try:
            return _run(job, paths, ledger, files, retry_failed=retry_failed, progress=progress)
        finally:
            ledger.close()


def read_report(output: Path) -> BatchReport:
    """Return the report of a job as its ledger has it now.

    Raises:
        BadInputError: the folder is not the output of a batch job.
    """
    paths = _Paths(output)
    if not (paths.state / "ledger.sqlite").is_file():
        raise BadInputError(f"{output} must be the output folder of a batch job, but it has no ledger")
    ledger = Ledger(paths.state)
    try:
        entry = ledger.entry()
        if entry is None:
            raise BadInputError(f"{output} must be the output folder of a batch job, but its ledger is empty: run the job")
        job = wire.decode(entry.document, BatchJob, what="the job of the ledger")
        tally = _tally(ledger)
        reason = reason_to_stop(job, tally, at_end=True) if entry.state is JobState.FAILED else ""
        return _report(job, paths, ledger, tally, reason)
    finally:
        ledger.close()


def _run(
    job: BatchJob, paths: _Paths, ledger: Ledger, files: Sequence[InputFile], *, retry_failed: bool, progress: Progress | None
) -> BatchReport:
    is_resumed = _begin_or_continue(job, paths, ledger, files)
    _reopen(job, paths, ledger, retry_failed=retry_failed)
    pending = ledger.pending()
    entry = ledger.entry()
    if entry is not None and entry.state is JobState.COMPLETED and not pending:
        return _report(job, paths, ledger, _tally(ledger), "")
    ledger.start_run(wire.encode(job))
    started_s, started_cpu_s = time.monotonic(), _cpu_s()
    tally, reason, state = _tally(ledger), "", JobState.RUNNING
    try:
        reason = _run_tasks(job, paths, ledger, pending, tally, is_resumed=is_resumed, progress=progress)
        state = JobState.FAILED if reason else JobState.COMPLETED
        if not reason:
            _finish(job, paths, ledger)
    except EdgewrightError:
        state = JobState.RUNNING
        raise
    finally:
        ledger.end_run(state, wall_s=time.monotonic() - started_s, cpu_s=_cpu_s() - started_cpu_s)
    report = _report(job, paths, ledger, tally, reason)
    _write_failures(paths, ledger)
    write_atomically(paths.output / REPORT_FILE, wire.encode_readable(report))
    if not reason:
        shutil.rmtree(paths.state / "parts", ignore_errors=True)
    return report


def _check_output(paths: _Paths, *, overwrite: bool) -> None:
    """Refuse a folder with content that no batch job wrote; with `overwrite`, only one that is no output of a job."""
    output = paths.output
    if output.exists() and not output.is_dir():
        raise BadInputError(f"{output} must be a folder for the output, but a file is in the way: choose another output")
    if not output.is_dir() or paths.state.is_dir():
        return
    if any(output.iterdir()):
        raise ConflictError(f"{output} must be empty or the output of this job, but it has other files: choose another output")


def _clear(paths: _Paths) -> None:
    """Remove the results and the ledger of another job."""
    for path in sorted(paths.output.iterdir()):
        if path.is_file():
            path.unlink()
    for path in paths.state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _begin_or_continue(job: BatchJob, paths: _Paths, ledger: Ledger, files: Sequence[InputFile]) -> bool:
    """Store the plan of a new job; return True if it began earlier."""
    inputs = hashlib.sha256(wire.encode([(file.path, file.size_bytes, file.changed_ns) for file in files])).hexdigest()
    folders = paths.folders(job)
    folders.parts.mkdir(parents=True, exist_ok=True)
    folders.logs.mkdir(parents=True, exist_ok=True)
    entry = ledger.entry()
    if entry is None:
        plan = make_plan(job, files, kind_of(files, job.kind))
        ledger.begin(job.fingerprint(), inputs, wire.encode(job), plan.tasks, plan.failures)
        return False
    for what, stored, current in (("options", entry.fingerprint, job.fingerprint()), ("input files", entry.inputs, inputs)):
        if stored != current:
            raise ConflictError(
                f"{paths.output} must be continued with the {what} that its job began with, but they differ: "
                "choose another output, or start again with --overwrite"
            )
    return True


def _reopen(job: BatchJob, paths: _Paths, ledger: Ledger, *, retry_failed: bool) -> None:
    """Run tasks again whose part is gone, and on request those with failures."""
    entry = ledger.entry()
    has_parts = job.output_action is OutputAction.PARTS or (entry is not None and entry.state is not JobState.COMPLETED)
    parts = paths.folders(job).parts
    again = []
    for outcome in ledger.outcomes():
        is_lost = has_parts and outcome.row_count and not part_path(parts, outcome.task, job.output_action).is_file()
        if (is_lost and job.output_action is not OutputAction.SUMMARY_ONLY) or (retry_failed and outcome.failures):
            again.append(outcome.task)
    if again and not has_parts:  # the parts of the others were removed when the output was complete
        again = [outcome.task for outcome in ledger.outcomes()]
    ledger.reopen(again)


def _run_tasks(
    job: BatchJob,
    paths: _Paths,
    ledger: Ledger,
    pending: Sequence[Task],
    tally: Tally,
    *,
    is_resumed: bool,
    progress: Progress | None,
) -> str:
    """Run and record tasks; return the reason if there were too many failures."""
    count = ledger.task_count()
    reason = reason_to_stop(job, tally, at_end=False)
    if reason:
        return reason
    outcomes = _outcomes(job, pending, paths.folders(job), is_resumed=is_resumed) if pending else iter(())
    try:
        for outcome in outcomes:
            ledger.record(outcome)
            tally.add(outcome)
            if progress is not None:
                progress(tally.tasks, count)
            reason = reason_to_stop(job, tally, at_end=False)
            if reason:
                return reason
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()  # ends the workers before the ledger is closed
    return reason_to_stop(job, tally, at_end=True)


def _outcomes(job: BatchJob, tasks: Sequence[Task], folders: Folders, *, is_resumed: bool) -> Iterator[Outcome]:
    if job.engine is Engine.EMBEDDED:
        return run_embedded(job, tasks, folders, is_resumed=is_resumed)
    raise BadInputError(f"engine must be {Engine.EMBEDDED}, not {job.engine}")


def _finish(job: BatchJob, paths: _Paths, ledger: Ledger) -> None:
    if job.output_action is not OutputAction.APPEND_ROW:
        return
    parts = paths.folders(job).parts
    with_rows = [part_path(parts, outcome.task, job.output_action) for outcome in ledger.outcomes() if outcome.row_count]
    assemble(with_rows, paths.output / job.append_row_file_name)


def _tally(ledger: Ledger) -> Tally:
    tally = Tally()
    tally.add_unreadable(ledger.unreadable())
    for outcome in ledger.outcomes():
        tally.add(outcome)
    return tally


def _failures(ledger: Ledger) -> Iterator[Failure]:
    yield from ledger.unreadable()
    for outcome in ledger.outcomes():
        yield from outcome.failures


def _write_failures(paths: _Paths, ledger: Ledger) -> None:
    with writing_atomically(paths.output / FAILURES_FILE) as stream:
        for failure in _failures(ledger):
            stream.write(wire.encode({"item": failure.item, "count": failure.count, "error": failure.error}) + b"\n")


def _report(job: BatchJob, paths: _Paths, ledger: Ledger, tally: Tally, reason: str) -> BatchReport:
    entry = ledger.entry()
    assert entry is not None
    return BatchReport(
        state=entry.state,
        reason=reason,
        items=tally.items,
        succeeded=tally.items - tally.failed,
        failed=tally.failed,
        mini_batches=tally.mini_batches,
        failed_mini_batches=tally.failed_mini_batches,
        tasks=ledger.task_count(),
        tasks_done=tally.tasks,
        runs=entry.run_count,
        wall_s=round(entry.wall_s, 3),
        cpu_s=round(entry.cpu_s, 3),
        output=str(paths.output),
        output_files=tuple(sorted(_results(job, paths))),
        output_rows=tally.rows,
        errors=grouped(_failures(ledger)),
    )


def _results(job: BatchJob, paths: _Paths) -> Iterator[str]:
    if job.output_action is OutputAction.PARTS:
        yield from (path.name for path in paths.output.glob("part-*.parquet"))
    elif job.output_action is OutputAction.APPEND_ROW and (paths.output / job.append_row_file_name).is_file():
        yield job.append_row_file_name


def _cpu_s() -> float:
    """Return the processor time of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
