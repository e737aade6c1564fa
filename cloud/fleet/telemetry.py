"""Telemetry: each measurement is stored once, however often it is sent, and acknowledged after the commit.

A measurement is identified by (device, queue_id, sequence).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from cloud.db.database import Counter, insert_or_ignore, raise_counter
from cloud.db.schema import devices, telemetry
from cloud.fleet.benchmark_jobs import call_for
from cloud.fleet.devices import is_revoked, mark_seen
from cloud.fleet.twins import MAX_SEQUENCE, check_sender
from edgewright.contracts.messages import Measurement, StoredMeasurement, TelemetryAck, TelemetryBatch, TelemetryQueue
from edgewright.errors import BadInputError, DeniedError, MessageError

MAX_QUERY_ROWS = 10_000
_ROWS_PER_INSERT = 500  # eight values each; SQLite accepts at most 32 766 in one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A filter of measurements; the newest `limit` matches are returned, oldest first.

    With `queue_id`, a reader follows one queue of a device: the first `limit` matches with a sequence of `from_sequence` or more
    are returned, in the order of the sequence.
    """

    device: str | None = None
    name: str | None = None
    since: datetime | None = None
    queue_id: str | None = None
    from_sequence: int = 0
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.queue_id is not None and self.device is None:
            raise BadInputError("queue_id must come with the device of that queue")
        if not 1 <= self.limit <= MAX_QUERY_ROWS:
            raise BadInputError(f"limit must be 1 to {MAX_QUERY_ROWS}, not {self.limit}")


def store(connection: Connection, device: str, batch: TelemetryBatch, now: datetime) -> TelemetryAck:
    """Store the new measurements of a batch; the acknowledgement is valid once the transaction is committed."""
    check_sender(device, batch.device)
    _check(batch)
    if is_revoked(connection, device):
        raise DeniedError(f"device {device} must be enrolled, but it was revoked or never enrolled: enrol it first")
    new_rows = 0
    for rows in _chunks([_row(batch, measurement) for measurement in batch.measurements]):
        inserted = insert_or_ignore(connection, telemetry).values(rows).returning(telemetry.c.sequence)
        new_rows += len(connection.execute(inserted).all())  # psycopg returns no row count for this statement
    mark_seen(connection, device, now)
    total = devices.c.telemetry_count + new_rows
    connection.execute(update(devices).where(devices.c.device == device).values(telemetry_count=total))
    if new_rows:
        raise_counter(connection, Counter.CHANGES)
    benchmark = call_for(connection, device)
    return TelemetryAck(queue_id=batch.queue_id, sequence=batch.measurements[-1].sequence, benchmark=benchmark)


def find(connection: Connection, query: Query) -> list[StoredMeasurement]:
    """Return the matching measurements, oldest first."""
    statement = select(telemetry).limit(query.limit)
    if query.device is not None:
        statement = statement.where(telemetry.c.device == query.device)
    if query.name is not None:
        statement = statement.where(telemetry.c.name == query.name)
    if query.since is not None:
        statement = statement.where(telemetry.c.at >= query.since)
    if query.queue_id is not None:
        statement = statement.where(telemetry.c.queue_id == query.queue_id, telemetry.c.sequence >= query.from_sequence)
        return _measurements(connection, statement.order_by(telemetry.c.sequence))
    return _measurements(connection, statement.order_by(telemetry.c.at.desc(), telemetry.c.sequence.desc()))[::-1]


def queues(connection: Connection, device: str) -> list[TelemetryQueue]:
    """Return the queues of a device, sorted by their id.

    Each takes two steps in the index of the primary key, however many measurements it has.
    """
    of_device = telemetry.c.device == device
    next_queue = select(telemetry.c.queue_id).where(of_device).order_by(telemetry.c.queue_id).limit(1)
    found: list[TelemetryQueue] = []
    queue_id = connection.execute(next_queue).scalar()
    while queue_id is not None:
        newest = select(func.max(telemetry.c.sequence)).where(of_device, telemetry.c.queue_id == queue_id)
        last_sequence = connection.execute(newest).scalar_one()
        found.append(TelemetryQueue(device=device, queue_id=queue_id, last_sequence=last_sequence))
        queue_id = connection.execute(next_queue.where(telemetry.c.queue_id > queue_id)).scalar()
    return found


def count(connection: Connection) -> int:
    """Return the number of measurements ever stored."""
    total: int = connection.execute(select(func.coalesce(func.sum(devices.c.telemetry_count), 0))).scalar_one()
    return total


def _measurements(connection: Connection, statement: Select[Any]) -> list[StoredMeasurement]:
    return [StoredMeasurement(**row._mapping) for row in connection.execute(statement)]


def _check(batch: TelemetryBatch) -> None:
    if not batch.measurements:
        raise MessageError("a telemetry batch must hold at least one measurement, but it is empty")
    sequences = [measurement.sequence for measurement in batch.measurements]
    if sequences != sorted(set(sequences)) or sequences[0] < 0 or sequences[-1] > MAX_SEQUENCE:
        raise MessageError(
            "the measurements of a batch must be in order of sequence, without duplicates, and each sequence must be 0 or more"
        )
    invalid = [
        measurement.name
        for measurement in batch.measurements
        if len(measurement.name) > 128 or len(measurement.unit) > 32 or measurement.at.tzinfo is None
    ]
    if invalid or not 1 <= len(batch.queue_id) <= 64:
        raise MessageError(
            "a measurement needs a name of at most 128 characters, a unit of at most 32, a timestamp in UTC, "
            f"and a queue_id of 1 to 64: see {', '.join(invalid[:3])[:200] or 'queue_id'}"
        )


def _row(batch: TelemetryBatch, measurement: Measurement) -> dict[str, object]:
    return {
        "device": batch.device,
        "queue_id": batch.queue_id,
        "sequence": measurement.sequence,
        "at": measurement.at,
        "name": measurement.name,
        "value": measurement.value,
        "unit": measurement.unit,
        "labels": measurement.labels,
    }


def _chunks(rows: Sequence[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _ROWS_PER_INSERT)):
        yield chunk
