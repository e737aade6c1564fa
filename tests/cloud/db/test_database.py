"""The schema, the counters, and waiting for changes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from cloud.db import schema
from cloud.db.changes import POLL_INTERVAL_S, Changes
from cloud.db.database import Counter, Database, raise_counter, read_counters
from edgewright.errors import BadInputError, StorageFullError, UnreachableError


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database.open(database_url)
    yield database
    database.close()


def test_the_migrations_create_the_tables_of_the_schema(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_reopening_keeps_the_rows(database: Database, database_url: str) -> None:
    with database.transaction() as connection:
        raise_counter(connection, Counter.CHANGES)
    again = Database.open(database_url)
    with again.reading() as connection:
        assert read_counters(connection)[Counter.CHANGES] == 1
    again.close()


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="the database must be SQLite or PostgreSQL, not oracle"):
        Database.open("oracle://host/name")


def test_a_database_that_cannot_be_opened_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="unable to open database file"):
        Database.open(f"sqlite:///{tmp_path / 'missing' / 'cloud.db'}")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_full_disk_is_reported_and_changes_nothing(database: Database) -> None:
    with database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    row = {"model": "huge", "version": 1, "index_digest": "sha256:0", "record": bytes(1 << 20)}
    with pytest.raises(StorageFullError, match="not enough disk space to write the database"):
        store_within(database, pages, row)
    with database.reading() as connection:
        assert connection.execute(schema.model_versions.select()).all() == []


def test_listeners_are_notified_of_committed_changes_only(database: Database) -> None:
    notifications: list[object] = []
    database.listen(lambda raised: notifications.append(dict(raised)))
    with pytest.raises(ZeroDivisionError):
        change_and_fail(database)
    with database.transaction() as connection:
        raise_counter(connection, Counter.DESIRED)
    assert notifications == [{Counter.DESIRED: 1}]


def test_concurrent_writers_lose_no_increment(database: Database) -> None:
    def write() -> None:
        for _ in range(25):
            with database.transaction() as connection:
                raise_counter(connection, Counter.CHANGES)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    with database.reading() as connection:
        assert read_counters(connection)[Counter.CHANGES] == 100


def test_a_change_in_this_process_wakes_a_waiter_without_polling(database: Database) -> None:
    async def wait_while_something_changes() -> tuple[int, float]:
        changes = Changes(database)
        await changes.start()  # follow_other_processes does not run
        waiting = asyncio.create_task(changes.wait(Counter.DESIRED, 0, 10))
        await asyncio.sleep(0)
        await asyncio.to_thread(change, database)
        began = time.monotonic()
        return await waiting, time.monotonic() - began

    number, took_s = asyncio.run(wait_while_something_changes())
    assert number == 1
    assert took_s < POLL_INTERVAL_S


def test_a_change_in_another_process_wakes_a_waiter(database: Database, database_url: str) -> None:
    async def wait_while_another_changes() -> int:
        changes = Changes(database)
        await changes.start()
        following = asyncio.create_task(changes.follow_other_processes())
        waiting = asyncio.create_task(changes.wait(Counter.DESIRED, 0, 10))
        other = Database.open(database_url)
        await asyncio.to_thread(change, other)
        other.close()
        number = await waiting
        following.cancel()
        return number

    assert asyncio.run(wait_while_another_changes()) == 1


def test_a_waiter_returns_when_the_service_stops(database: Database) -> None:
    async def wait_while_the_service_stops() -> int:
        changes = Changes(database)
        await changes.start()
        waiting = asyncio.create_task(changes.wait(Counter.CHANGES, 0, 10))
        await asyncio.sleep(0)
        changes.close()
        return await waiting

    assert asyncio.run(wait_while_the_service_stops()) == 0


def store_within(database: Database, pages: int, row: dict[str, object]) -> None:
    """Store a row in a database limited to `pages` pages, which SQLite reports as a full disk."""
    with database.transaction() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.execute(schema.model_versions.insert().values(row))


def change_and_fail(database: Database) -> None:
    with database.transaction() as connection:
        raise_counter(connection, Counter.DESIRED)
        raise ZeroDivisionError


def change(database: Database) -> None:
    with database.transaction() as connection:
        raise_counter(connection, Counter.DESIRED)
