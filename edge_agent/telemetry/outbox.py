"""Telemetry that waits on disk until the cloud has stored it for good.

A database of its own, so that its damage or fullness stops nothing else. Every measurement has a number, without gaps; rows go
away when the cloud acknowledges them, never because they were sent. Over the byte quota the oldest go first, and each loss is
written in a ledger: which numbers, how many, why.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.storage.database import connect, set_aside, transaction
from edgewright.contracts import wire
from edgewright.contracts.messages import Measurement, TelemetryAck, TelemetryBatch

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
    """A measurement before it has its number."""

    name: str
    value: float
    unit: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """One loss: the measurements `from_sequence` to `to_sequence`."""

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
        """Open the queue; a damaged one is set aside and a new one begun, with a new id, so that its numbers are not confused."""
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
        """Add measurements, numbered in the order given, and make room by dropping the oldest where the quota is used up."""
        instant = (at or datetime.now(UTC)).isoformat()
        with transaction(self._connection, "the telemetry queue") as connection:
            for reading in readings:
                body = json.dumps([instant, reading.name, reading.value, reading.unit, reading.labels])
                connection.execute(
                    "INSERT INTO queue (body, size_bytes) VALUES (?, ?)", (body, len(body.encode()) + ROW_OVERHEAD_BYTES)
                )
            self._keep_quota(connection, instant)

    def batch(self) -> TelemetryBatch | None:
        """Return the oldest measurements that wait; None when none do."""
        rows = self._connection.execute("SELECT sequence, body FROM queue ORDER BY sequence LIMIT ?", (BATCH_SIZE,)).fetchall()
        if not rows:
            return None
        return TelemetryBatch(
            device=self._device,
            queue_id=self.queue_id,
            measurements=tuple(_measurement(sequence, body) for sequence, body in rows),
        )

    def acknowledge(self, ack: TelemetryAck) -> int:
        """Forget what the cloud has stored for good; return how many that were. An ack of another queue is ignored."""
        if ack.queue_id != self.queue_id:
            return 0
        with transaction(self._connection, "the telemetry queue") as connection:
            return connection.execute("DELETE FROM queue WHERE sequence <= ?", (ack.sequence,)).rowcount

    def waiting(self) -> int:
        """Return how many measurements wait."""
        count: int = self._connection.execute("SELECT COUNT(*) FROM queue").fetchone()[0]
        return count

    def ledger(self) -> tuple[Drop, ...]:
        """Return every loss, oldest first."""
        rows = self._connection.execute("SELECT from_sequence, to_sequence, count, reason FROM ledger ORDER BY from_sequence")
        return tuple(Drop(from_sequence=a, to_sequence=b, count=count, reason=reason) for a, b, count, reason in rows)

    def dropped(self) -> int:
        """Return how many measurements were lost in all."""
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
        _enter_loss(connection, Drop(from_sequence=first, to_sequence=last, count=count, reason="quota"), instant)


def _enter_loss(connection: sqlite3.Connection, drop: Drop, instant: str) -> None:
    """Add to the ledger; a loss that directly follows the last one for the same reason makes that one longer."""
    grown = connection.execute(
        "UPDATE ledger SET to_sequence = ?, count = count + ?, at = ? WHERE to_sequence = ? AND reason = ?",
        (drop.to_sequence, drop.count, instant, drop.from_sequence - 1, drop.reason),
    ).rowcount
    if not grown:
        connection.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", (drop.from_sequence, drop.to_sequence, drop.count, drop.reason, instant)
        )


def _measurement(sequence: int, body: str) -> Measurement:
    at, name, value, unit, labels = json.loads(body)
    return Measurement(sequence=sequence, at=datetime.fromisoformat(at), name=name, value=value, unit=unit, labels=labels)


def decode_ack(raw: bytes) -> TelemetryAck:
    """Read what the cloud acknowledges."""
    return wire.decode(raw, TelemetryAck, what="the telemetry acknowledgement")


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path, _SCHEMA)
    with transaction(connection, "the telemetry queue"):
        if connection.execute("SELECT COUNT(*) FROM identity").fetchone()[0] == 0:
            connection.execute("INSERT INTO identity VALUES (?)", (secrets.token_hex(8),))
    return connection
