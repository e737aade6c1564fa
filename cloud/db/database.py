"""The database: one SQLite file by default, PostgreSQL by URL; opening it migrates the schema.

Transactions are short and run in worker threads. A transaction that changes watched rows increments a counter (`raise_counter`).
The commit notifies the listeners of this process; other processes poll the counters (`cloud/db/changes.py`).
"""

from __future__ import annotations

import contextlib
import enum
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event, inspect, make_url, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

from cloud.db import schema
from edgewright.contracts.files import is_disk_full
from edgewright.errors import BadInputError, StorageFullError, UnreachableError, one_line

Listener = Callable[[Mapping["Counter", int]], None]

_MIGRATIONS = Path(__file__).parents[1] / "migrations"
_RAISED = "edgewright.raised"


class Counter(enum.StrEnum):
    """The change counters that tasks can wait for."""

    CHANGES = "changes"
    """Changes of devices, models, rollouts or telemetry."""
    DESIRED = "desired"
    """Changes of the desired state of any device."""


class Database:
    """Connections and transactions; open one with `Database.open`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._listeners: list[Listener] = []
        # SQLite has one writer; a lock hands over at once, while SQLite itself polls.
        self._writing: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()
        )

    @classmethod
    def open(cls, url: str, *, must_exist: bool = False) -> Database:
        """Connect and migrate the schema; with `must_exist`, the database must have been created by an earlier start.

        Raises:
            BadInputError: the URL is invalid, its driver is not installed, or the database is damaged or not that of a cloud.
            UnreachableError: the database does not respond.
        """
        try:
            backend = make_url(url).get_backend_name()
            if backend not in ("sqlite", "postgresql"):
                raise BadInputError(f"the database must be SQLite or PostgreSQL, not {backend}: give another --database")
            # A ping before each use, so that no request fails on a connection from before a server restart.
            engine = create_engine(url, pool_size=10, max_overflow=40, pool_pre_ping=backend == "postgresql")
        except (ArgumentError, NoSuchModuleError) as error:
            raise BadInputError(f"a database URL must have the form postgresql+psycopg://user@host/name: {error}") from error
        except ModuleNotFoundError as error:
            install = "'edgewright[postgres]'" if error.name == "psycopg" else error.name
            raise BadInputError(f"the database URL needs the driver {error.name}: pip install {install}") from error
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        try:
            if must_exist:
                _check_exists(engine)
            _migrate(engine)
        except OperationalError as error:
            engine.dispose()
            raise UnreachableError(f"the database {engine.url!r} does not answer: {error.orig}") from error
        except (DatabaseError, sqlite3.DatabaseError, CommandError) as error:
            engine.dispose()
            raise BadInputError(
                f"the database {engine.url!r} must be that of this cloud, but it cannot be used ({one_line(error)}): "
                "restore it from a backup"
            ) from error
        return cls(engine)

    def ping(self) -> None:
        """Run an empty query; raise `UnreachableError` if the database does not respond."""
        with self.reading() as connection:
            connection.execute(select(1))

    def listen(self, listener: Listener) -> None:
        """Call `listener` after each commit with the incremented counters, in the thread of the transaction."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection with a consistent snapshot; raise `UnreachableError` if the database does not respond."""
        with _reporting_unreachable(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose changes are committed if the block succeeds; then notify the listeners.

        Raises:
            UnreachableError: the database does not respond; nothing was changed, unless the connection failed during the commit.
            StorageFullError: the disk of the database is full; nothing was changed.
        """
        with self._writing, _reporting_unreachable(), self.engine.connect() as connection:
            raised: dict[Counter, int] = {}
            connection.info[_RAISED] = raised
            with _reporting_full(), connection.execution_options(edgewright_writes=True).begin():
                yield connection
        if raised:
            for listener in self._listeners:
                listener(raised)

    def close(self) -> None:
        """Close all idle connections."""
        self.engine.dispose()


def raise_counter(connection: Connection, counter: Counter) -> int:
    """Increment a counter within a transaction and return its new value."""
    table = schema.counters
    raised = update(table).where(table.c.name == counter).values(number=table.c.number + 1).returning(table.c.number)
    number: int = connection.execute(raised).scalar_one()
    connection.info[_RAISED][counter] = number
    return number


def assign_alone(connection: Connection) -> None:
    """Wait until no other transaction assigns a number or a name; the lock ends with the transaction.

    PostgreSQL runs transactions side by side, so that two of them could find the same number free. SQLite runs one at a time.
    """
    connection.execute(select(schema.counters.c.number).where(schema.counters.c.name == Counter.CHANGES).with_for_update())


def read_counters(connection: Connection) -> dict[Counter, int]:
    """Return the values of all counters."""
    rows = connection.execute(select(schema.counters.c.name, schema.counters.c.number))
    return {Counter(row.name): row.number for row in rows}


def insert_or_ignore(connection: Connection, table: Table) -> Insert:
    """Return an insert that skips rows whose key exists."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


@contextlib.contextmanager
def _reporting_unreachable() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        # No SQLSTATE means that no server responded; classes 08 and 57P are connection errors, shutdown and startup
        # (PostgreSQL documentation, appendix A). SQLite's errors have no SQLSTATE.
        state = getattr(error.orig, "sqlstate", "")
        if state is None or state.startswith(("08", "57P")):
            raise UnreachableError("the database does not answer; try again") from error
        raise


@contextlib.contextmanager
def _reporting_full() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if error.orig is not None and is_disk_full(error.orig):
            raise StorageFullError("not enough disk space to write the database: free some space and try again") from error
        raise


def _prepare_sqlite(engine: Engine) -> None:
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # explicit BEGIN: https://docs.sqlalchemy.org, "pysqlite transactions"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # acknowledged telemetry survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=10000")

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("edgewright_writes", False)
        # With a plain BEGIN, a transaction that reads before it writes fails with SQLITE_BUSY instead of waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _check_exists(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        if not inspect(connection).has_table("alembic_version"):
            raise BadInputError(
                f"the database {engine.url!r} must be that of this cloud, but it has no tables of a cloud: "
                "restore it from a backup, or start an empty cloud in another --state"
            )


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection, connection.execution_options(edgewright_writes=True).begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
