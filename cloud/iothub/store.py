"""The file of the hub: identities, twins and other documents, messages to devices, and telemetry, in one SQLite database.

The hub keeps all documents in memory; the store writes each change in the order of the calls. Changes that arrive while a
transaction is written share the next one, so one flush of the disk serves many clients. Callbacks run after the commit: an
acknowledgement that a client gets is therefore stored. If a transaction fails, no later one is written and the hub must end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewright.contracts.files import is_disk_full
from edgewright.errors import BadInputError, EdgewrightError, OperationError, StorageFullError, one_line

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
  kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
  id TEXT PRIMARY KEY, device TEXT NOT NULL, position INTEGER NOT NULL, head TEXT NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY, identity TEXT NOT NULL, enqueued_at TEXT NOT NULL, properties TEXT NOT NULL, body BLOB NOT NULL
);
"""
_VERSION = 1
_TRIM_EVERY = 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One telemetry message of a device or module; `number` increases by one per event."""

    number: int
    identity: str
    enqueued_at: str
    properties: dict[str, str]
    body: bytes = field(repr=False)


class Store:
    """The database of one hub; it belongs to one event loop, except for `close`."""

    def __init__(self, path: Path, *, max_events: int) -> None:
        """Open or create the database at `path`, which keeps the last `max_events` events.

        Raises:
            BadInputError: the file is not the database of a hub, or it belongs to a newer version.
        """
        self._max_events = max_events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="iothub-store")
        self._connection = _open(path)
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []
        self._callbacks: list[Callable[[], None]] = []
        self._is_writing = False
        self._is_closed = False
        self._added = asyncio.Event()
        self._last_number: int = self._connection.execute("SELECT coalesce(max(number), 0) FROM events").fetchone()[0]
        self._numbers = itertools.count(self._last_number + 1)
        self.failure: asyncio.Future[EdgewrightError] = asyncio.get_running_loop().create_future()
        """The error of a failed transaction."""

    def documents(self, kind: str) -> dict[str, Any]:
        """Return the stored documents of a kind by their keys."""
        rows = self._connection.execute("SELECT key, body FROM documents WHERE kind = ?", (kind,))
        return {key: json.loads(body) for key, body in rows}

    def messages(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Yield the queued messages to devices in order: device, properties, body."""
        rows = self._connection.execute("SELECT device, head, body FROM messages ORDER BY position")
        for device, head, body in rows:
            yield device, json.loads(head), body

    def put(self, kind: str, key: str, document: object) -> None:
        """Create or replace a document."""
        body = json.dumps(document, separators=(",", ":"))
        self._write("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (kind, key, body))

    def delete(self, kind: str, key: str) -> None:
        """Delete a document."""
        self._write("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key))

    def put_message(self, device: str, message_id: str, position: int, head: dict[str, Any], body: bytes) -> None:
        """Store or update a message to a device."""
        row = (message_id, device, position, json.dumps(head), body)
        self._write("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?)", row)

    def delete_message(self, message_id: str) -> None:
        """Delete a message to a device."""
        self._write("DELETE FROM messages WHERE id = ?", (message_id,))

    def add_event(self, identity: str, enqueued_at: str, properties: dict[str, str], body: bytes) -> None:
        """Store a telemetry message."""
        number = next(self._numbers)
        row = (number, identity, enqueued_at, json.dumps(properties), body)
        self._write("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
        if number % _TRIM_EVERY == 0:
            self._write("DELETE FROM events WHERE number <= ?", (number - self._max_events,))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the event loop when everything so far is stored; never, if a transaction fails."""
        if not self._waiting and not self._is_writing and not self.failure.done():
            callback()
            return
        self._callbacks.append(callback)
        self._start()

    async def committed(self) -> None:
        """Return when everything so far is stored.

        Raises:
            EdgewrightError: a transaction has failed.
        """
        stored = asyncio.get_running_loop().create_future()
        self.after_commit(lambda: None if stored.done() else stored.set_result(None))
        await asyncio.wait((stored, self.failure), return_when=asyncio.FIRST_COMPLETED)
        if not stored.done():
            raise self.failure.result()

    async def events(self, *, after: int, limit: int, wait_s: float = 0.0) -> list[Event]:
        """Return up to `limit` stored events with numbers over `after`; wait up to `wait_s` for the first."""
        await self.committed()
        if self._last_number <= after and wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._added.wait(), wait_s)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read_events, after, limit)

    @property
    def last_number(self) -> int:
        """The number of the last stored event; 0 without one."""
        return self._last_number

    def close(self) -> None:
        """Write what is waiting and close the file; later changes have no effect."""
        self._is_closed = True
        if not self.failure.done() and self._waiting:
            self._thread.submit(self._commit, self._waiting).result()
        self._thread.shutdown()
        self._connection.close()

    def _write(self, statement: str, row: tuple[Any, ...]) -> None:
        self._waiting.append((statement, row))
        if not self._is_writing:
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        if self._is_writing or self._is_closed or self.failure.done() or not (self._waiting or self._callbacks):
            return
        self._is_writing = True
        writes, self._waiting = self._waiting, []
        callbacks, self._callbacks = self._callbacks, []
        finished = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, writes)
        finished.add_done_callback(lambda done: self._finish(done, writes, callbacks))

    def _finish(
        self, done: asyncio.Future[None], writes: list[tuple[str, tuple[Any, ...]]], callbacks: list[Callable[[], None]]
    ) -> None:
        self._is_writing = False
        error = done.exception()
        if error is not None:
            self.failure.set_result(_failure(error))
            return
        numbers = [row[0] for statement, row in writes if statement.startswith("INSERT INTO events")]
        if numbers:
            self._last_number = numbers[-1]
            added, self._added = self._added, asyncio.Event()
            added.set()
        for callback in callbacks:
            callback()
        self._start()

    def _commit(self, writes: list[tuple[str, tuple[Any, ...]]]) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, group in itertools.groupby(writes, key=lambda write: write[0]):
                self._connection.executemany(statement, [row for _, row in group])

    def _read_events(self, after: int, limit: int) -> list[Event]:
        rows = self._connection.execute("SELECT * FROM events WHERE number > ? ORDER BY number LIMIT ?", (after, limit))
        return [Event(number, identity, at, json.loads(properties), body) for number, identity, at, properties, body in rows]


def _open(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise BadInputError(f"{path} must be of version {_VERSION} or older, not {version}: use a newer edgewright")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version={_VERSION}")
    except sqlite3.Error as error:
        raise BadInputError(f"{path} must be the database of a hub ({one_line(error)}): restore it from a backup") from error
    return connection


def _failure(error: BaseException) -> EdgewrightError:
    if is_disk_full(error):
        return StorageFullError("not enough disk space to write the hub's database: free some space and start the hub again")
    return OperationError(f"the hub's database cannot be written ({one_line(error)}): correct the cause and start the hub again")
