"""Queue of measurements on disk, kept until the cloud acknowledges that it has stored them.

It has its own database, so that damage or a used-up quota affects nothing else. Measurements are numbered without gaps. A row is
deleted when it is acknowledged, not when it is sent. Above the byte quota the oldest rows are dropped, and a ledger records the
numbers, the count and the reason of every loss.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.storage.database import connect, set_aside, transaction
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmark_call import BenchmarkCall
from edgewright.contracts.messages import Measurement, TelemetryAck, TelemetryBatch
from edgewright.errors import EdgewrightError

_log = logging.getLogger(__name__)

OUTBOX_FILE = "telemetry.db"
BATCH_SIZE = 200
ROW_OVERHEAD_BYTES = 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (sequence INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, size_bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (
    from_sequence INTEGER NOT NULL, to_sequence INTEGER NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS identity (queue_id TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A measurement without its number."""

    name: str
    value: float
    unit: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Dropped measurements, numbered `from_sequence` to `to_sequence`."""

    from_sequence: int
    to_sequence: int
    count: int
    reason: str


class Outbox:
    """The queue of measurements."""

    def __init__(self, connection: sqlite3.Connection, device: str, quota_bytes: int) -> None:
        self._connection = connection
        self._device = device
        self._quota_bytes = quota_bytes
        self.queue_id: str = connection.execute("SELECT queue_id FROM identity").fetchone()[0]

    @classmethod
    def open(cls, state_directory: Path, device: str, quota_bytes: int) -> Outbox:
        """Open the queue; a damaged one is set aside and replaced by an empty one, whose new id keeps the numbers distinct."""
        path = state_directory / OUTBOX_FILE
        try:
            return cls(_connect(path), device, quota_bytes)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            set_aside(path)
            return cls(_connect(path), device, quota_bytes)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def put(self, readings: Sequence[Reading], at: datetime | None = None) -> None:
        """Add measurements, numbered in the given order, and drop the oldest ones above the quota."""
        instant = (at or datetime.now(UTC)).isoformat()
        with transaction(self._connection, "the telemetry queue") as connection:
            for reading in readings:
                body = json.dumps([instant, reading.name, reading.value, reading.unit, reading.labels])
                connection.execute(
                    "INSERT INTO queue (body, size_bytes) VALUES (?, ?)", (body, len(body.encode()) + ROW_OVERHEAD_BYTES)
                )
            self._keep_quota(connection, instant)

    def batch(self) -> TelemetryBatch | None:
        """Return the oldest waiting measurements; None if the queue is empty."""
        rows = self._connection.execute("SELECT sequence, body FROM queue ORDER BY sequence LIMIT ?", (BATCH_SIZE,)).fetchall()
        if not rows:
            return None
        return TelemetryBatch(
            device=self._device,
            queue_id=self.queue_id,
            measurements=tuple(_measurement(sequence, body) for sequence, body in rows),
        )

    def acknowledge(self, ack: TelemetryAck) -> int:
        """Delete acknowledged measurements and return their count; ignore an acknowledgement of another queue."""
        if ack.queue_id != self.queue_id:
            return 0
        with transaction(self._connection, "the telemetry queue") as connection:
            return connection.execute("DELETE FROM queue WHERE sequence <= ?", (ack.sequence,)).rowcount

    def waiting(self) -> int:
        """Return the number of waiting measurements."""
        count: int = self._connection.execute("SELECT COUNT(*) FROM queue").fetchone()[0]
        return count

    def ledger(self) -> tuple[Drop, ...]:
        """Return all losses, oldest first."""
        rows = self._connection.execute("SELECT from_sequence, to_sequence, count, reason FROM ledger ORDER BY from_sequence")
        return tuple(Drop(from_sequence=a, to_sequence=b, count=count, reason=reason) for a, b, count, reason in rows)

    def dropped(self) -> int:
        """Return the total number of lost measurements."""
        return sum(drop.count for drop in self.ledger())

    def _keep_quota(self, connection: sqlite3.Connection, instant: str) -> None:
        over = connection.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM queue").fetchone()[0] - self._quota_bytes
        if over <= 0:
            return
        last = first = 0
        count = 0
        for sequence, size_bytes in connection.execute("SELECT sequence, size_bytes FROM queue ORDER BY sequence"):
            if over <= 0:
                break
            first, last, count, over = first or sequence, sequence, count + 1, over - size_bytes
        connection.execute("DELETE FROM queue WHERE sequence <= ?", (last,))
        _record_loss(connection, Drop(from_sequence=first, to_sequence=last, count=count, reason="quota"), instant)


class Acknowledgements:
    """Receiver of the cloud's acknowledgements, which may name a benchmark job, and the event that a delivery waits for."""

    def __init__(self, outbox: Outbox, called: Callable[[BenchmarkCall | None], None] = lambda _call: None) -> None:
        self._outbox = outbox
        self._called = called
        self._received = asyncio.Event()

    def receive(self, raw: bytes) -> None:
        """Apply an acknowledgement to the outbox; log and ignore one that cannot be decoded or stored."""
        try:
            ack = wire.decode(raw, TelemetryAck, what="the telemetry acknowledgement")
            self._outbox.acknowledge(ack)
            self._called(ack.benchmark)
        except EdgewrightError as error:
            _log.warning("ignored acknowledgement reason=%r", str(error))
        self._received.set()

    def clear(self) -> None:
        """Discard the acknowledgements received so far."""
        self._received.clear()

    async def wait(self) -> None:
        """Wait for the next acknowledgement."""
        await self._received.wait()


def _record_loss(connection: sqlite3.Connection, drop: Drop, instant: str) -> None:
    """Add a loss to the ledger, or extend the last entry if it is adjacent and has the same reason."""
    extended = connection.execute(
        "UPDATE ledger SET to_sequence = ?, count = count + ?, at = ? WHERE to_sequence = ? AND reason = ?",
        (drop.to_sequence, drop.count, instant, drop.from_sequence - 1, drop.reason),
    ).rowcount
    if not extended:
        connection.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", (drop.from_sequence, drop.to_sequence, drop.count, drop.reason, instant)
        )


def _measurement(sequence: int, body: str) -> Measurement:
    at, name, value, unit, labels = json.loads(body)
    return Measurement(sequence=sequence, at=datetime.fromisoformat(at), name=name, value=value, unit=unit, labels=labels)


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path, _SCHEMA)
    with transaction(connection, "the telemetry queue"):
        if connection.execute("SELECT COUNT(*) FROM identity").fetchone()[0] == 0:
            connection.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))
    return connection
