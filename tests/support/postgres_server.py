"""A temporary PostgreSQL server on a private Unix socket, without a TCP port.

The server refuses to run as root. A test run as root starts it as the user `postgres`, which Debian's package creates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER = "edgewright"
LIMIT_S = 120


@dataclass
class PostgresServer:
    """A running server."""

    folder: Path
    stop: Callable[[], None]
    start: Callable[[], None]
    _numbers: Iterator[int] = field(default_factory=count)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"cloud_{next(self._numbers)}"
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"


@pytest.fixture(scope="session")
def postgres(require: Callable[[str], Path]) -> Iterator[PostgresServer]:
    """Return one server for all tests; each test creates its own databases."""
    with running_postgres(require("postgres").parent) as server:
        yield server


@contextmanager
def running_postgres(programs: Path) -> Iterator[PostgresServer]:
    """Start a server with the programs of a folder; stop it afterwards."""
    folder = Path(
        tempfile.mkdtemp(prefix="edgewright-pg-")
    )  # the path of a socket is limited to 107 bytes; pytest's folders are longer
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        owner = {"user": "postgres", "group": "postgres", "extra_groups": []}

    def call(program: str, *arguments: object) -> None:
        # A file instead of a pipe, because the server that pg_ctl starts would keep the pipe open.
        with (folder / f"{program}.out").open("w+b") as output:
            command = [str(programs / program), *map(str, arguments)]
            result = subprocess.run(command, cwd=folder, timeout=LIMIT_S, check=False, stdout=output, stderr=output, **owner)
            output.seek(0)
            assert result.returncode == 0, output.read().decode()

    data = folder / "data"
    waiting = ("-D", data, "-w", "-t", LIMIT_S)
    settings = f"-k {folder} -c listen_addresses= -c fsync=off"
    server = PostgresServer(
        folder,
        stop=lambda: call("pg_ctl", "stop", *waiting, "-m", "immediate"),
        start=lambda: call("pg_ctl", "start", *waiting, "-l", folder / "log", "-o", settings),
    )
    try:
        call("initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
