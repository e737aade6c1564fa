"""A cloud that the tests share; those that stop or kill one start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.running_cloud import Http, RunningCloud, running


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud without a broker."""
    with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as started:
        yield started


@pytest.fixture(scope="module")
def operator(cloud: RunningCloud) -> Http:
    return cloud.operator()
