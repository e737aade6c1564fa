"""A cloud for the tests of endpoints; tests that kill a cloud start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud, running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud whose endpoints are deleted at the end."""
    with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as cloud:
        yield cloud
        with CloudClient.connect(str(cloud.state)) as client:
            for each in client.endpoints():
                client.delete_endpoint(each.endpoint)


@pytest.fixture(scope="module")
def client(cloud: RunningCloud) -> Iterator[CloudClient]:
    """A client of the cloud."""
    with CloudClient.connect(str(cloud.state)) as client:
        yield client
