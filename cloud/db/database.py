"""The database: one SQLite file by default, PostgreSQL by URL; the schema is brought up to date when it is opened.

Transactions are short and run in worker threads. Whoever changes what others wait for raises a counter in the same
transaction (`raise_counter`); when it is committed, the listeners of this process hear of it at once, and other processes
find the higher number when they look (`cloud/db/changes.py`).
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Insert, Table, create_engine, event, make_url, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from cloud.db import schema
from edgewright.contracts.files import is_disk_full
from edgewright.errors import BadInputError, StorageFullError, UnreachableError

Listener = Callable[[Mapping["Counter", int]], None]

_MIGRATIONS = Path(__file__).parents[1] / "migrations"
_RAISED = "edgewright.raised"


class Counter(enum.StrEnum):
    """What can be waited for."""

    CHANGES = "changes"
    """Anything that a person watches: devices, models, rollouts, telemetry."""
    DESIRED = "desired"
    """The desired state of some device."""


class Database:
    """Connections and transactions; make one with `Database.open`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._listeners: list[Listener] = []
        # SQLite has one writer; waiting here is fair and immediate, waiting inside SQLite is neither.
        self._writing: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()
        )

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect and bring the schema up to date.

        Raises:
            BadInputError: the URL is none, or its driver is not installed.
            UnreachableError: the database does not answer.
        """
        try:
            kind = make_url(url).get_backend_name()
            if kind not in ("sqlite", "postgresql"):
                raise BadInputError(f"the database must be SQLite or PostgreSQL, not {kind}: give another --database")
            # Pinged first: a connection from before a restart of the server must cost no request.
            engine = create_engine(url, pool_size=10, max_overflow=40, pool_pre_ping=kind == "postgresql")
        except (ArgumentError, NoSuchModuleError) as wrong:
            raise BadInputError(f"a database URL must be like postgresql+psycopg://user@host/name: {wrong}") from wrong
        except ModuleNotFoundError as missing:
            install = "'edgewright[postgres]'" if missing.name == "psycopg" else missing.name
            raise BadInputError(f"the database URL needs the driver {missing.name}: pip install {install}") from missing
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        try:
            _migrate(engine)
        except OperationalError as failed:
            raise UnreachableError(f"the database {engine.url!r} does not answer: {failed.orig}") from failed
        return cls(engine)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the counters that each committed transaction raised, from the thread that committed it."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one moment of the database; raise `UnreachableError` when that is away."""
        with _answering(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection whose changes are committed together when the block ends well, and then tell the listeners.

        Raises:
            UnreachableError: the database does not answer; nothing was changed, unless it went away in the commit itself.
            StorageFullError: its disk is full; nothing was changed.
        """
        with self._writing, _answering(), self.engine.connect() as connection:
            raised: dict[Counter, int] = {}
            connection.info[_RAISED] = raised
            with _room(), connection.execution_options(edgewright_writes=True).begin():
                yield connection
        if raised:
            for listener in self._listeners:
                listener(raised)

    def close(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def raise_counter(connection: Connection, counter: Counter) -> int:
    """Raise a counter within a transaction and return its new number."""
    table = schema.counters
    change = update(table).where(table.c.name == counter).values(number=table.c.number + 1).returning(table.c.number)
    number: int = connection.execute(change).scalar_one()
    connection.info[_RAISED][counter] = number
    return number


def read_counters(connection: Connection) -> dict[Counter, int]:
    """Return every counter."""
    rows = connection.execute(select(schema.counters.c.name, schema.counters.c.number))
    return {Counter(row.name): row.number for row in rows}


def insert_or_ignore(connection: Connection, table: Table) -> Insert:
    """Return an insert that leaves a row alone that is there already."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except OperationalError as failed:
        # No state at all means that no server answered; classes 08 and 57P say that it is going or coming
        # (PostgreSQL's manual, appendix A). SQLite's errors have no such field.
        state = getattr(failed.orig, "sqlstate", "")
        if state is None or state.startswith(("08", "57P")):
            raise UnreachableError("the database does not answer; try again") from failed
        raise


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OperationalError as failed:
        if failed.orig is not None and is_disk_full(failed.orig):
            raise StorageFullError("no room left to write the database: free some space and try again") from failed
        raise


def _prepare_sqlite(engine: Engine) -> None:
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: https://docs.sqlalchemy.org, "pysqlite transactions"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # an acknowledged measurement survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=10000")

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("edgewright_writes", False)
        # A transaction that reads first and writes later would fail with SQLITE_BUSY instead of waiting.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection, connection.execution_options(edgewright_writes=True).begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
