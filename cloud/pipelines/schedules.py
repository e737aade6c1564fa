"""Schedules in the database: which are due, and the change that only one of several clouds makes.

A cloud that has found a schedule due moves its next time in the same transaction in which it stores the job. The move has the
old time as its condition, so that of several clouds on one database one starts the job, and a cloud that is killed before the
commit has started none. Times that passed while no cloud ran start one job, not one each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, delete, insert, select, update

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import schedules
from cloud.pipelines.clock import next_time
from edgewright.contracts import wire
from edgewright.contracts.names import check_name, nearest
from edgewright.contracts.pipelines.schedules import ScheduleRecord, ScheduleRequest
from edgewright.errors import NotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Digests of the names, sizes and times of the files in the folder of a schedule."""

    started: str = ""
    """Content for which the last job was started, or with which the schedule was made."""
    last: str = ""
    """Content at the last look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """One schedule."""

    owner: str
    """The cloud whose folder it watches, and which runs its jobs."""
    record: ScheduleRecord
    content: Content


def create(
    connection: Connection, name: str, owner: str, request: ScheduleRequest, content: str, now: datetime
) -> ScheduleRecord:
    """Store a schedule in place of one of the same name; `content` is that of its folder."""
    check_name(name, "schedule")
    assign_alone(connection)
    connection.execute(delete(schedules).where(schedules.c.schedule == name))
    values = {
        "schedule": name,
        "owner": owner,
        "request": wire.encode(request),
        "enabled": True,
        "next_at": next_at(request, now),
        "content": wire.encode(Content(started=content, last=content)),
        "last_job": None,
        "reason": "",
        "created_at": now,
    }
    connection.execute(insert(schedules).values(values))
    raise_counter(connection, Counter.CHANGES)
    return one_schedule(connection, name).record


def next_at(request: ScheduleRequest, now: datetime) -> datetime:
    """Return when a schedule is due next."""
    if request.cron:
        return next_time(request.cron, request.time_zone, now)
    return now + timedelta(seconds=request.poll_s)


def all_schedules(connection: Connection) -> list[StoredSchedule]:
    """Return every schedule, by name."""
    return [_schedule(row) for row in connection.execute(select(schedules).order_by(schedules.c.schedule))]


def one_schedule(connection: Connection, name: str) -> StoredSchedule:
    """Return one schedule.

    Raises:
        NotFoundError: no schedule has this name; the message suggests the nearest names.
    """
    row = connection.execute(select(schedules).where(schedules.c.schedule == name)).one_or_none()
    if row is None:
        names = connection.execute(select(schedules.c.schedule)).scalars()
        raise NotFoundError(f"no schedule is called {name[:64]!r}{nearest(name, names)}")
    return _schedule(row)


def due(connection: Connection, owner: str, now: datetime) -> list[StoredSchedule]:
    """Return the schedules that this cloud must look at."""
    query = select(schedules).where(schedules.c.owner == owner, schedules.c.enabled, schedules.c.next_at <= now)
    return [_schedule(row) for row in connection.execute(query)]


def move(connection: Connection, schedule: StoredSchedule, content: Content, now: datetime) -> bool:
    """Set the next time; return False if another process did so since `schedule` was read."""
    record = schedule.record
    row = (schedules.c.schedule == record.schedule, schedules.c.next_at == record.next_at, schedules.c.enabled)
    values = {"next_at": next_at(record.request, now), "content": wire.encode(content)}
    return connection.execute(update(schedules).where(*row).values(values)).rowcount == 1


def note(connection: Connection, name: str, *, job: int | None = None, reason: str = "") -> None:
    """Store the job that a schedule started, or why it started none."""
    values = {"reason": reason, **({} if job is None else {"last_job": job})}
    connection.execute(update(schedules).where(schedules.c.schedule == name).values(values))
    raise_counter(connection, Counter.CHANGES)


def enable(connection: Connection, name: str, *, is_enabled: bool, now: datetime) -> ScheduleRecord:
    """Enable or disable a schedule; times that have passed meanwhile start no job."""
    found = one_schedule(connection, name).record
    values = {"enabled": is_enabled, "next_at": next_at(found.request, now) if is_enabled else None}
    connection.execute(update(schedules).where(schedules.c.schedule == name).values(values))
    raise_counter(connection, Counter.CHANGES)
    return one_schedule(connection, name).record


def remove(connection: Connection, name: str) -> ScheduleRecord:
    """Remove a schedule; its jobs stay."""
    found = one_schedule(connection, name).record
    connection.execute(delete(schedules).where(schedules.c.schedule == name))
    raise_counter(connection, Counter.CHANGES)
    return found


def _schedule(row: Row[tuple[object, ...]]) -> StoredSchedule:
    return StoredSchedule(
        owner=row.owner,
        record=ScheduleRecord(
            schedule=row.schedule,
            request=wire.decode(row.request, ScheduleRequest, what="a stored schedule"),
            is_enabled=row.enabled,
            next_at=row.next_at,
            last_job=row.last_job,
            reason=row.reason,
            created_at=row.created_at,
        ),
        content=wire.decode(row.content, Content, what="the stored content of a folder"),
    )
