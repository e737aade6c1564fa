"""The report of a job: counts, times, and failures grouped by their cause."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgewright.batch.job import BatchJob
from edgewright.batch.ledger import JobState
from edgewright.batch.tasks import Failure, Outcome

EXAMPLES = 5
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|(?:/[^\s:,;/]+)+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failures whose messages differ in numbers, paths and quoted text only."""

    error: str
    """The message of the first one."""
    count: int
    """Rows or files."""
    items: tuple[str, ...]
    """The first items that failed with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """The result of a job, after its last run."""

    state: JobState
    reason: str
    """The reason of a failed job; empty otherwise."""
    items: int
    """Rows or files that were given to the model or script, or could not be read."""
    succeeded: int
    failed: int
    mini_batches: int
    failed_mini_batches: int
    tasks: int
    tasks_done: int
    runs: int
    """Times that the job was started; more than one after an interruption."""
    wall_s: float
    """Time of all runs together."""
    cpu_s: float
    """Processor time of all runs on this machine."""
    output: str
    """The folder of the output."""
    output_files: tuple[str, ...]
    output_rows: int
    errors: tuple[ErrorGroup, ...] = ()

    @property
    def items_per_s(self) -> float:
        """Rows or files per second."""
        return self.items / self.wall_s if self.wall_s else 0.0


@dataclass(slots=True)
class Tally:
    """The counts of a job while it runs."""

    items: int = 0
    failed: int = 0
    mini_batches: int = 0
    failed_mini_batches: int = 0
    tasks: int = 0
    rows: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count a task."""
        self.items += outcome.count
        self.failed += outcome.count - outcome.succeeded
        self.mini_batches += outcome.mini_batches
        self.failed_mini_batches += sum(failure.mini_batch is not None for failure in outcome.failures)
        self.tasks += 1
        self.rows += outcome.row_count

    def add_unreadable(self, failures: Iterable[Failure]) -> None:
        """Count inputs that could not be opened; of a table the rows are not known, so it counts as one."""
        for failure in failures:
            self.items += failure.count
            self.failed += failure.count


def reason_to_stop(job: BatchJob, tally: Tally, *, at_end: bool) -> str:
    """Return the limit of failures that is exceeded; empty if the job may continue, or at the end counts as completed."""
    if 0 <= job.error_threshold < tally.failed:
        return f"error_threshold is {job.error_threshold}, but {tally.failed} rows or files failed"
    if job.allowed_failed_count is not None and tally.failed_mini_batches > job.allowed_failed_count:
        return f"allowed_failed_count is {job.allowed_failed_count}, but {tally.failed_mini_batches} mini-batches failed"
    if not at_end:
        return ""
    percent = 100 * tally.failed_mini_batches / max(1, tally.mini_batches)
    if job.allowed_failed_percent is not None and percent > job.allowed_failed_percent:
        return f"allowed_failed_percent is {job.allowed_failed_percent:g}, but {percent:.1f} % of the mini-batches failed"
    if tally.failed and tally.failed == tally.items:
        return "at least one row or file must succeed, but all failed"
    return ""


def grouped(failures: Iterable[Failure]) -> tuple[ErrorGroup, ...]:
    """Return failures by cause, the most frequent first."""
    groups: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[_NUMBER.sub("0", _QUOTED.sub("…", failure.error))].append(failure)
    found = [_group(members) for members in groups.values()]
    return tuple(sorted(found, key=lambda group: -group.count))


def _group(members: Sequence[Failure]) -> ErrorGroup:
    items = tuple(failure.item for failure in members[:EXAMPLES])
    return ErrorGroup(error=members[0].error, count=sum(failure.count for failure in members), items=items)
