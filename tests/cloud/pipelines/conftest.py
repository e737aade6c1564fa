"""A cloud for the tests of pipelines; tests that kill a cloud start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud, running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    with running(tmp_path_factory.mktemp("cloud") / "state", "--no-broker") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def client(cloud: RunningCloud) -> Iterator[CloudClient]:
    with CloudClient.connect(str(cloud.state)) as client:
        yield client
