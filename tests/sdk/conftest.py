"""A cloud that trusts one publisher, and an operator's client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud
from tests.support.trusting_cloud import publisher, trusting_cloud

__all__ = ["publisher", "trusting_cloud"]


@pytest.fixture(scope="module")
def cloud(trusting_cloud: RunningCloud) -> RunningCloud:
    return trusting_cloud


@pytest.fixture
def client(cloud: RunningCloud) -> Iterator[CloudClient]:
    with CloudClient.connect(str(cloud.state)) as connected:
        yield connected
