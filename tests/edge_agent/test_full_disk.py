"""A full disk stops no scoring: the device says what it waits for, and goes on by itself when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgewright.contracts.messages import DeploymentState
from tests.edge_agent.conftest import FILLER, Device, fill_disk
from tests.support.device_packages import Built
from tests.support.fake_cloud import FakeCloud

S = DeploymentState


@pytest.fixture
def cramped(tiny_disk: Path, cloud: FakeCloud, v1: Built) -> Iterator[Device]:
    """A device on a tiny disk that runs version 1."""
    device = Device(tiny_disk / "device", cloud.device)
    device.enrol(cloud.token())
    device.log_file = tiny_disk.parent / "agent.log"
    cloud.publish(v1, 1)
    cloud.wish(v1, 1)
    device.start()
    cloud.wait_for(S.RUNNING)
    yield device
    device.stop()


def scores_like(device: Device, built: Built) -> bool:
    return bool(np.allclose(device.score_patiently(built.samples), built.answers, rtol=1e-4, atol=1e-2))


def test_a_wish_that_finds_the_disk_full_waits_and_comes_true_when_there_is_room(
    tiny_disk: Path, cramped: Device, cloud: FakeCloud, v1: Built, v2: Built
) -> None:
    fill_disk(tiny_disk)
    cloud.publish(v2, 2)
    cloud.wish(v2, 2)
    cloud.wait_until(lambda: any("free some space" in r.reason for r in cloud.reports), "the full disk was not reported")
    assert scores_like(cramped, v1)
    (tiny_disk / FILLER).unlink()
    assert cloud.wait_for(S.RUNNING).desired_number == 2
    assert scores_like(cramped, v2)


def test_an_agent_that_starts_on_a_full_disk_scores(tiny_disk: Path, cramped: Device, v1: Built) -> None:
    cramped.kill()
    fill_disk(tiny_disk)
    cramped.start()
    assert scores_like(cramped, v1)
