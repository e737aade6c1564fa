"""SQLite the way the agent uses it: flushed transactions, a full disk told as such, a damaged file set aside.

`synchronous=FULL`, because what was promised to the cloud, or numbered for it, must not be forgotten by a power cut.
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
    """Open a database and make its tables; raise `sqlite3.DatabaseError` when the file is damaged."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(schema)
        found = connection.execute("PRAGMA quick_check").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except sqlite3.OperationalError as failed:
        connection.close()
        raise as_ours(failed, path.name) from failed
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a database beside the agent that writes it."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


@contextmanager
def transaction(connection: sqlite3.Connection, what: str) -> Iterator[sqlite3.Connection]:
    """Do all or nothing; raise `StorageFullError` naming `what` when the disk is full."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has ended it already
                connection.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as failed:
        raise as_ours(failed, what) from failed


def as_ours(failed: sqlite3.OperationalError, what: str) -> Exception:
    """Return `StorageFullError` where SQLite says that there is no room, else the error as it is."""
    # A full disk shows as an I/O error where SQLite extends its shared memory file.
    if is_disk_full(failed) or "disk I/O" in str(failed):
        return StorageFullError(f"no room left to write {what}: free some space and try again")
    return failed


def set_aside(path: Path) -> None:
    """Move a damaged database and its side files out of the way, for someone to look at."""
    for suffix in ("", "-wal", "-shm"):
        leftover = path.with_name(path.name + suffix)
        if leftover.exists():
            leftover.replace(path.with_name(f"damaged-{path.name}{suffix}"))
