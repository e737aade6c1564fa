"""SQLite databases of the agent: flushed transactions, an error for a full disk, and recovery from a damaged file.

`synchronous=FULL`, because a power cut must not lose what the agent has reported to the cloud or numbered for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.contracts.files import is_disk_full
from edgewright.errors import StorageFullError

BUSY_TIMEOUT_S = 5.0


def connect(path: Path, schema: str) -> sqlite3.Connection:
    """Open a database and create its tables.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
        StorageFullError: the disk is full.
    """
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(schema)
        check_result = connection.execute("PRAGMA quick_check").fetchone()[0]
        if check_result != "ok":
            raise sqlite3.DatabaseError(check_result)
    except sqlite3.OperationalError as error:
        connection.close()
        raise _translated(error, path.name) from error
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a database for reading while the agent may write to it."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


@contextmanager
def transaction(connection: sqlite3.Connection, subject: str) -> Iterator[sqlite3.Connection]:
    """Commit the block as a whole, or roll it back on an error.

    Raises:
        StorageFullError: the disk is full; the message names `subject`.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk may already have ended it
                connection.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        raise _translated(error, subject) from error


def _translated(error: sqlite3.OperationalError, subject: str) -> Exception:
    """Return a `StorageFullError` for a full disk, and any other error unchanged."""
    # SQLite reports an I/O error if the disk is full when it extends its shared memory file.
    if is_disk_full(error) or "disk I/O" in str(error):
        return StorageFullError(f"not enough disk space to write {subject}: free some space and try again")
    return error


def set_aside(path: Path) -> None:
    """Rename a damaged database and its side files to `damaged-*`, for later inspection."""
    for suffix in ("", "-wal", "-shm"):
        leftover = path.with_name(path.name + suffix)
        if leftover.exists():
            leftover.replace(path.with_name(f"damaged-{path.name}{suffix}"))
