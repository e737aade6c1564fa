"""A cloud that the tests share; tests that stop or kill a cloud start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer, postgres
from tests.support.running_cloud import Http, RunningCloud, running

__all__ = ["postgres"]


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud without a broker."""
    with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def operator(cloud: RunningCloud) -> Http:
    return cloud.operator()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty SQLite or PostgreSQL database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'cloud.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
