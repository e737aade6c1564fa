"""Fixtures: a running cloud without a broker, and the publisher that it trusts. A test module imports both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.contracts import signing
from tests.support.running_cloud import RunningCloud, running


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The private key file of a publisher."""
    path = tmp_path_factory.mktemp("keys") / "publisher.key"
    signing.write_key_pair(path, signing.generate_key())
    return path


@pytest.fixture(scope="module")
def trusting_cloud(tmp_path_factory: pytest.TempPathFactory, publisher: Path) -> Iterator[RunningCloud]:
    """A cloud that trusts `publisher`."""
    state = tmp_path_factory.mktemp("cloud") / "state"
    with running(state, "--no-broker", "--trust", f"{publisher}.pub") as cloud:
        yield cloud
