"""The ledger of a job: its tasks and their outcomes, in an SQLite file that only the driver writes.

A task is done when its outcome is committed, which is after its part has its name. A driver that is killed between the two runs
the task again and replaces the part, so every row is in the output once.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.batch.tasks import Failure, Outcome, Task
from edgewright.contracts import wire
from edgewright.errors import ConflictError, NotWritableError, OperationError

LEDGER_FILE = "ledger.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY CHECK (id = 1), fingerprint TEXT NOT NULL, inputs TEXT NOT NULL, document BLOB NOT NULL,
    state TEXT NOT NULL, started_at REAL NOT NULL, run_count INTEGER NOT NULL, wall_s REAL NOT NULL, cpu_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (number INTEGER PRIMARY KEY, task BLOB NOT NULL, outcome BLOB);
CREATE TABLE IF NOT EXISTS unreadable (item TEXT PRIMARY KEY, failure BLOB NOT NULL);
"""


class JobState(enum.StrEnum):
    """States of a job."""

    RUNNING = "running"
    """Not ended, or interrupted."""
    FAILED = "failed"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The job that a ledger belongs to."""

    fingerprint: str
    inputs: str
    """Digest of the list of input files."""
    document: bytes
    state: JobState
    started_at: float
    run_count: int
    wall_s: float
    """Time of all runs together."""
    cpu_s: float


class Ledger:
    """The open ledger of one job."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in a folder, or create it.

        Raises:
            OperationError: the file is not a ledger.
        """
        path = folder / LEDGER_FILE
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise OperationError(f"{path} must be the ledger of a batch job: {error}; remove it to start again") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def entry(self) -> Entry | None:
        """Return the job; None for a new ledger."""
        row = self._connection.execute(
            "SELECT fingerprint, inputs, document, state, started_at, run_count, wall_s, cpu_s FROM job"
        ).fetchone()
        if row is None:
            return None
        return Entry(
            fingerprint=row[0],
            inputs=row[1],
            document=row[2],
            state=JobState(row[3]),
            started_at=row[4],
            run_count=row[5],
            wall_s=row[6],
            cpu_s=row[7],
        )

    def begin(self, fingerprint: str, inputs: str, document: bytes, tasks: Sequence[Task], unreadable: Sequence[Failure]) -> None:
        """Store a new job with its plan."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO job VALUES (1, ?, ?, ?, ?, ?, 0, 0, 0)",
                (fingerprint, inputs, document, JobState.RUNNING, time.time()),
            )
            self._connection.executemany(
                "INSERT INTO tasks (number, task) VALUES (?, ?)", [(task.number, wire.encode(task)) for task in tasks]
            )
            self._connection.executemany(
                "INSERT INTO unreadable VALUES (?, ?)", [(each.item, wire.encode(each)) for each in unreadable]
            )

    def start_run(self, document: bytes) -> None:
        """Record that a driver works on the job."""
        self._connection.execute(
            "UPDATE job SET run_count = run_count + 1, state = ?, document = ?", (JobState.RUNNING, document)
        )

    def end_run(self, state: JobState, *, wall_s: float, cpu_s: float) -> None:
        """Record the state of the job and the time of a run."""
        self._connection.execute("UPDATE job SET state = ?, wall_s = wall_s + ?, cpu_s = cpu_s + ?", (state, wall_s, cpu_s))

    def record(self, outcome: Outcome) -> None:
        """Record a task as done; its part must have its name."""
        self._connection.execute("UPDATE tasks SET outcome = ? WHERE number = ?", (wire.encode(outcome), outcome.task))

    def reopen(self, numbers: Sequence[int]) -> None:
        """Record tasks as not done."""
        self._connection.executemany("UPDATE tasks SET outcome = NULL WHERE number = ?", [(number,) for number in numbers])

    def pending(self) -> list[Task]:
        """Return the tasks that are not done."""
        rows = self._connection.execute("SELECT task FROM tasks WHERE outcome IS NULL ORDER BY number")
        return [wire.decode(raw, Task, what="a task of the ledger") for (raw,) in rows]

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes of the tasks that are done, in the order of the tasks."""
        for (raw,) in self._connection.execute("SELECT outcome FROM tasks WHERE outcome IS NOT NULL ORDER BY number"):
            yield wire.decode(raw, Outcome, what="an outcome of the ledger")

    def unreadable(self) -> list[Failure]:
        """Return the inputs that could not be opened."""
        rows = self._connection.execute("SELECT failure FROM unreadable ORDER BY rowid")
        return [wire.decode(raw, Failure, what="a failure of the ledger") for (raw,) in rows]

    def task_count(self) -> int:
        """Return the number of tasks."""
        return int(self._connection.execute("SELECT COUNT(*) FROM tasks").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a job, which ends with the process.

    Raises:
        ConflictError: another process works on the job.
        NotWritableError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except OSError as error:
        raise NotWritableError(
            f"{folder.parent} cannot be written ({error.strerror}): choose another output, or change its permissions"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"{folder.parent} must belong to one run at a time, but another process works on it") from error
        yield
    finally:
        os.close(handle)
