"""The real cloud and real agents, killed while they work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgewright.contracts.variant import LayerKind
from edgewright.demo.processes import wait_until
from tests.support.real_build import make_real_build
from tests.support.small_fleet import WAIT_S, SmallFleet, pull_the_plug

LARGE_BYTES = 96 << 20


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SmallFleet]:
    """Yield a cloud and devices in one directory; their processes end with the test."""
    with ExitStack() as processes:
        yield SmallFleet(tmp_path / "fleet", processes)


def test_a_rollout_continues_after_a_kill_of_the_cloud_and_devices_never_stop_scoring(fleet: SmallFleet, tmp_path: Path) -> None:
    cloud = fleet.start_cloud()
    for device in ("one", "two"):
        fleet.enrol(device)
        fleet.start_agent(device)
    build = make_real_build(tmp_path / "build")
    fleet.publish(build, "1")
    fleet.wait_for_rollout(fleet.roll_out(1, waves="100%"), "completed")
    fleet.publish(build, "2")
    rollout = fleet.roll_out(2, waves="1,100%", trial="4s")
    pull_the_plug(cloud)
    assert fleet.answers("one")
    assert fleet.answers("two")

    fleet.start_cloud()
    record = fleet.wait_for_rollout(rollout, "completed")

    assert {device["state"] for device in record["devices"]} == {"running"}
    for device in ("one", "two"):
        reported = fleet.device(device)["reported"]
        assert (reported["running"]["version"], reported["desired_number"]) == (2, 2)
        assert fleet.answers(device)


def test_an_agent_killed_during_a_pull_continues_the_pull(fleet: SmallFleet, tmp_path: Path) -> None:
    fleet.start_cloud()
    fleet.enrol("one")
    agent = fleet.start_agent("one")
    build = make_real_build(tmp_path / "build")
    weights = build.variant("fp32").file(LayerKind.FEATURIZER_WEIGHTS)
    with weights.open("ab") as stream:
        stream.write(os.urandom(LARGE_BYTES))
    fleet.publish(build, "1")
    rollout = fleet.roll_out(1, waves="100%")

    partial = fleet.directory / "one" / "blobs" / "partial"
    wait_until(lambda: incomplete_bytes(partial) > LARGE_BYTES // 8, what="a pull", timeout_s=WAIT_S, step_s=0.002)
    pull_the_plug(agent)
    assert incomplete_bytes(partial) < LARGE_BYTES
    fleet.start_agent("one")
    fleet.wait_for_rollout(rollout, "completed")

    reported = fleet.device("one")["reported"]
    assert reported["running"]["version"] == 1
    assert LARGE_BYTES < reported["bytes_pulled"] < 1.05 * LARGE_BYTES


def incomplete_bytes(partial: Path) -> int:
    """Return the number of bytes of incomplete blobs."""
    return sum(path.stat().st_size for path in partial.glob("*") if path.exists())
