"""A full disk does not stop scoring: the device reports the reason and continues automatically when there is space."""

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
    """A device that runs version 1 on a tiny disk."""
    device = Device(tiny_disk / "device", cloud.device)
    device.enrol(cloud.token())
    device.log_file = tiny_disk.parent / "agent.log"
    cloud.publish(v1, 1)
    cloud.set_desired(v1, 1)
    device.start()
    cloud.wait_for(S.RUNNING)
    yield device
    device.stop()


def scores_match(device: Device, built: Built) -> bool:
    return bool(np.allclose(device.score_with_retries(built.samples), built.answers, rtol=1e-4, atol=1e-2))


def test_an_update_waits_while_the_disk_is_full_and_completes_when_there_is_space(
    tiny_disk: Path, cramped: Device, cloud: FakeCloud, v1: Built, v2: Built
) -> None:
    fill_disk(tiny_disk)
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2)
    cloud.wait_until(lambda: any("free some space" in r.reason for r in cloud.reports), "the full disk was not reported")
    assert scores_match(cramped, v1)
    (tiny_disk / FILLER).unlink()
    assert cloud.wait_for(S.RUNNING).desired_number == 2
    assert scores_match(cramped, v2)


def test_an_agent_that_starts_on_a_full_disk_scores(tiny_disk: Path, cramped: Device, v1: Built) -> None:
    cramped.kill()
    fill_disk(tiny_disk)
    cramped.start()
    assert scores_match(cramped, v1)
