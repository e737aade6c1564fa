"""Deployments and their history in SQLite, from which the agent continues after a kill.

Every step of `states.py` is one transaction with `synchronous=FULL`. Each row also holds the reason, the time, the attempt and
the choice of the variant; the last thousand events are kept. `Journal.of` is the view of one workload. The last verified desired
state of the whole device is kept as well, so that no workload's part of it is lost when the agent is killed before it acts on it.
A damaged journal is set aside and replaced by an empty one, and the running versions are found through the links (`links.py`).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_agent.deployment.states import Event, after, failpoint_name
from edge_agent.storage.database import connect, connect_read_only, set_aside, transaction
from edge_agent.storage.failpoints import failpoint
from edgewright.contracts import wire
from edgewright.contracts.messages import IMPORTED_FROM, DeploymentState, DesiredState, FailureCause
from edgewright.errors import EdgewrightError

KEPT_EVENTS = 1000
JOURNAL_FILE = "journal.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (
    desired_number INTEGER PRIMARY KEY,
    desired TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    since TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    retry_at TEXT,
    transitions INTEGER NOT NULL DEFAULT 0,
    online_s REAL NOT NULL DEFAULT 0,
    bytes_pulled INTEGER NOT NULL DEFAULT 0,
    choice TEXT NOT NULL DEFAULT '[]',
    cause TEXT,
    workload TEXT NOT NULL DEFAULT '',
    accepted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    desired_number INTEGER NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    workload TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS device (id INTEGER PRIMARY KEY CHECK (id = 1), desired TEXT NOT NULL);
"""
_SELECT = (
    "SELECT desired, state, reason, since, attempt, retry_at, transitions, online_s, bytes_pulled, choice, cause "
    "FROM deployments "
)
_ADDED = (
    ("deployments", "cause", "TEXT"),
    ("deployments", "workload", "TEXT NOT NULL DEFAULT ''"),
    ("events", "workload", "TEXT NOT NULL DEFAULT ''"),
    ("deployments", "accepted", "INTEGER NOT NULL DEFAULT 0"),
)
"""Columns that the journals of earlier agents lack."""
_NEWEST = "ORDER BY accepted DESC, desired_number DESC LIMIT 1"
"""The order in which deployments were accepted; the number of an imported package is above those of the cloud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One desired state and its progress on this device."""

    desired: DesiredState
    state: DeploymentState
    reason: str
    since: datetime
    attempt: int = 1
    retry_at: datetime | None = None
    """Wall-clock time of the next attempt, for display; the agent waits on a monotonic clock."""
    transitions: int = 0
    online_s: float = 0.0
    """Seconds online since the desired state was accepted, over all starts of the agent."""
    bytes_pulled: int = 0
    choice: tuple[str, ...] = ()
    cause: FailureCause | None = None
    """Cause of the last failure; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEvent:
    """One line of the history that `edgewright agent explain` shows."""

    at: datetime
    desired_number: int
    event: str
    state: str
    reason: str
    workload: str = ""
    """Empty for an event that is about no workload."""


class Journal:
    """The stored deployments. Its only writer is the agent that holds the lock of the state directory."""

    def __init__(self, connection: sqlite3.Connection, workload: str | None = None) -> None:
        self._connection = connection
        self._workload = workload

    @classmethod
    def open(cls, state_directory: Path) -> tuple[Journal, str | None]:
        """Open the journal; return it with a description of the damage if an empty one replaced a damaged one."""
        path = state_directory / JOURNAL_FILE
        try:
            return cls(_connect(path)), None
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            set_aside(path)
            return cls(_connect(path)), f"the journal was damaged ({error}) and was replaced by an empty one"

    @classmethod
    def read_only(cls, state_directory: Path) -> Journal | None:
        """Open the journal for reading while an agent may run; None before the agent's first start."""
        path = state_directory / JOURNAL_FILE
        if not path.is_file():
            return None
        return cls(connect_read_only(path))

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def of(self, workload: str) -> Journal:
        """Return the view of one workload: its deployments and its events."""
        return Journal(self._connection, workload)

    def workloads(self) -> tuple[str, ...]:
        """Return the workloads with a deployment, sorted by name."""
        return tuple(row[0] for row in self._connection.execute("SELECT DISTINCT workload FROM deployments ORDER BY workload"))

    def current(self) -> Deployment | None:
        """Return the deployment that was accepted last."""
        row = self._connection.execute(_SELECT + f"WHERE ?1 IS NULL OR workload = ?1 {_NEWEST}", (self._workload,)).fetchone()
        return None if row is None else _deployment(row)

    def highest_number(self, *, imported: bool) -> int:
        """Return the highest number of the accepted states of the cloud, or of the imported ones; 0 without one."""
        row = self._connection.execute(
            "SELECT MAX(desired_number) FROM deployments WHERE (?1 IS NULL OR workload = ?1) AND (desired_number >= ?2) = ?3",
            (self._workload, IMPORTED_FROM, imported),
        ).fetchone()
        return row[0] or 0

    def state_of(self, number: int) -> DeploymentState | None:
        """Return the state of the deployment with this number; None if it is not stored."""
        row = self._connection.execute("SELECT state FROM deployments WHERE desired_number = ?", (number,)).fetchone()
        return None if row is None else DeploymentState(row[0])

    def desired(self, number: int) -> DesiredState | None:
        """Return the desired state with this number; None if it is not stored."""
        row = self._connection.execute(_SELECT + "WHERE desired_number = ?", (number,)).fetchone()
        return None if row is None else _deployment(row).desired

    def device_desired(self) -> DesiredState | None:
        """Return the last verified desired state of the device; None if none is stored."""
        row = self._connection.execute("SELECT desired FROM device").fetchone()
        return None if row is None else wire.decode(row[0], DesiredState, what="the stored desired state of the device")

    def history(self, limit: int) -> tuple[PastEvent, ...]:
        """Return the last `limit` events, oldest first."""
        rows = self._connection.execute(
            "SELECT at, desired_number, event, state, reason, workload FROM events WHERE ?1 IS NULL OR workload = ?1 "
            "ORDER BY id DESC LIMIT ?2",
            (self._workload, limit),
        ).fetchall()
        return tuple(
            PastEvent(
                at=datetime.fromisoformat(at), desired_number=number, event=event, state=state, reason=reason, workload=workload
            )
            for at, number, event, state, reason, workload in reversed(rows)
        )

    def store_device_desired(self, desired: DesiredState) -> None:
        """Store the verified desired state of the device."""
        with transaction(self._connection, "the journal") as connection:
            connection.execute("INSERT OR REPLACE INTO device VALUES (1, ?)", (wire.encode(desired).decode(),))

    def accept(self, desired: DesiredState, reason: str) -> Deployment:
        """Store a new desired state as accepted."""
        state = after(None, Event.ACCEPT)
        failpoint(failpoint_name(None, Event.ACCEPT, "before"))
        with transaction(self._connection, "the journal") as connection:
            self._insert(connection, desired, state, reason)
            self._insert_event(connection, desired.desired_number, Event.ACCEPT.value, state.value, reason)
            connection.execute(
                "DELETE FROM deployments WHERE workload = ? AND desired_number BETWEEN ? AND ?",
                (
                    self._workload or desired.workload,
                    IMPORTED_FROM if desired.is_imported else 0,
                    desired.desired_number - 101,
                ),
            )
        failpoint(failpoint_name(None, Event.ACCEPT, "after"))
        return self._current()

    def adopt(self, desired: DesiredState, reason: str) -> Deployment:
        """Store the active version of a workload as running, in a journal that replaced a damaged one."""
        with transaction(self._connection, "the journal") as connection:
            self._insert(connection, desired, DeploymentState.RUNNING, reason)
            self._insert_event(connection, desired.desired_number, "adopt", DeploymentState.RUNNING.value, reason)
        return self._current()

    def remove(self, reason: str) -> None:
        """Remove the deployments of this view's workload; its events stay."""
        with transaction(self._connection, "the journal") as connection:
            connection.execute("DELETE FROM deployments WHERE workload = ?", (self._workload,))
            self._insert_event(connection, 0, "remove", "", reason)

    def rename(self, workload: str) -> None:
        """Give the deployments and events of this view's workload to `workload`, which becomes the view's."""
        with transaction(self._connection, "the journal") as connection:
            connection.execute("UPDATE deployments SET workload = ? WHERE workload = ?", (workload, self._workload))
            connection.execute("UPDATE events SET workload = ? WHERE workload = ?", (workload, self._workload))
        self._workload = workload

    def step(
        self,
        event: Event,
        reason: str,
        *,
        attempt: int | None = None,
        choice: tuple[str, ...] | None = None,
        cause: FailureCause | None = None,
    ) -> Deployment:
        """Store one step of the state table; `attempt` and `choice` keep their values unless given, `cause` is of this step.

        Raises:
            ConflictError: the table has no such step.
        """
        deployment = self._current()
        state = after(deployment.state, event)
        failpoint(failpoint_name(deployment.state, event, "before"))
        with transaction(self._connection, "the journal") as connection:
            connection.execute(
                "UPDATE deployments SET state = ?, reason = ?, since = ?, attempt = ?, choice = ?, cause = ?, retry_at = NULL, "
                "transitions = transitions + 1 WHERE desired_number = ?",
                (
                    state.value,
                    reason,
                    _now() if state is not deployment.state else deployment.since.isoformat(),
                    deployment.attempt if attempt is None else attempt,
                    json.dumps(deployment.choice if choice is None else choice),
                    cause.value if cause else None,
                    deployment.desired.desired_number,
                ),
            )
            self._insert_event(connection, deployment.desired.desired_number, event.value, state.value, reason)
        failpoint(failpoint_name(deployment.state, event, "after"))
        return self._current()

    def note(self, reason: str, retry_at: datetime | None = None) -> Deployment:
        """Store the reason why the deployment waits, without a step."""
        return self._update("reason = ?, retry_at = ?", reason, retry_at.isoformat() if retry_at else None)

    def count(self, *, bytes_pulled: int, online_s: float) -> Deployment:
        """Store the total of pulled bytes, and add to the seconds online."""
        return self._update("bytes_pulled = MAX(bytes_pulled, ?), online_s = online_s + ?", bytes_pulled, online_s)

    def record(self, event: str, reason: str) -> None:
        """Add an event to the history that changed no state, such as a rejected desired state."""
        with transaction(self._connection, "the journal") as connection:
            self._insert_event(connection, 0, event, "", reason)

    def _current(self) -> Deployment:
        deployment = self.current()
        assert deployment is not None, "a step needs an accepted deployment"
        return deployment

    def _update(self, assignments: str, *values: Any) -> Deployment:
        number = self._current().desired.desired_number
        with transaction(self._connection, "the journal") as connection:
            # The assignments are literals of this module.
            connection.execute(f"UPDATE deployments SET {assignments} WHERE desired_number = ?", (*values, number))  # noqa: S608
        return self._current()

    def _insert(self, connection: sqlite3.Connection, desired: DesiredState, state: DeploymentState, reason: str) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO deployments (desired_number, desired, state, reason, since, workload, accepted) "
            "VALUES (?, ?, ?, ?, ?, ?, (SELECT COALESCE(MAX(accepted), 0) + 1 FROM deployments))",
            (
                desired.desired_number,
                wire.encode(desired).decode(),
                state.value,
                reason,
                _now(),
                self._workload or desired.workload,
            ),
        )

    def _insert_event(self, connection: sqlite3.Connection, number: int, event: str, state: str, reason: str) -> None:
        connection.execute(
            "INSERT INTO events (at, desired_number, event, state, reason, workload) VALUES (?, ?, ?, ?, ?, ?)",
            (_now(), number, event, state, reason, self._workload or ""),
        )
        connection.execute("DELETE FROM events WHERE id <= (SELECT MAX(id) FROM events) - ?", (KEPT_EVENTS,))


def _connect(path: Path) -> sqlite3.Connection:
    """Open the journal and check that its newest row can be decoded."""
    connection = connect(path, _SCHEMA)
    try:
        _extend(connection)
        row = connection.execute(_SELECT + _NEWEST).fetchone()
        if row is not None:
            _deployment(row)
    except (EdgewrightError, ValueError, TypeError) as error:
        connection.close()
        raise sqlite3.DatabaseError(str(error)) from error
    return connection


def _extend(connection: sqlite3.Connection) -> None:
    """Add the columns that an earlier agent did not have; its deployments are those of one workload."""
    with transaction(connection, "the journal"):
        for table, column, kind in _ADDED:
            if column not in {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        row = connection.execute(_SELECT + "WHERE workload = '' ORDER BY desired_number DESC LIMIT 1").fetchone()
        if row is not None:
            workload = _deployment(row).desired.workload
            connection.execute("UPDATE deployments SET workload = ? WHERE workload = ''", (workload,))
            connection.execute("UPDATE events SET workload = ? WHERE workload = '' AND desired_number > 0", (workload,))


def _deployment(row: tuple[Any, ...]) -> Deployment:
    desired, state, reason, since, attempt, retry_at, transitions, online_s, bytes_pulled, choice, cause = row
    return Deployment(
        desired=wire.decode(desired, DesiredState, what="the stored desired state"),
        state=DeploymentState(state),
        reason=reason,
        since=datetime.fromisoformat(since),
        attempt=attempt,
        retry_at=datetime.fromisoformat(retry_at) if retry_at else None,
        transitions=transitions,
        online_s=online_s,
        bytes_pulled=bytes_pulled,
        choice=tuple(json.loads(choice)),
        cause=FailureCause(cause) if cause else None,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
