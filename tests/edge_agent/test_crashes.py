"""Killed anywhere, the agent ends where it should: the new version runs, or a bad end is told and the old one runs.

Each case starts from a device that runs version 1, is killed by SIGKILL at one failpoint of the way to version 2, and started
again. The failpoints are those of the state table and of the store.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.deployment.states import Event, failpoint_name, failpoints
from edge_agent.storage.failpoints import STORE_FAILPOINTS
from edgewright.contracts.messages import DeploymentState
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built
from tests.support.fake_cloud import FakeCloud

S = DeploymentState


def both(*steps: tuple[DeploymentState | None, Event]) -> list[str]:
    return [failpoint_name(state, event, side) for state, event in steps for side in ("before", "after")]


TO_RUNNING = [
    *both(
        (None, Event.ACCEPT),
        (S.ACCEPTED, Event.FETCH),
        (S.FETCHING, Event.VERIFY),
        (S.VERIFIED, Event.STAGE),
        (S.STAGED, Event.SWITCH),
        (S.SWITCHING, Event.TRY),
        (S.TRIAL, Event.COMMIT),
    ),
    *STORE_FAILPOINTS,
]
# Tried elsewhere too, or the same moment as the failpoint before it; `pytest -m slow` tries them all the same.
SLOW = {
    "accepted.fetch.before": pytest.mark.slow,
    "staged.switch.before": pytest.mark.slow,
    "switching.try.before": pytest.mark.slow,
    "trial.commit.before": pytest.mark.slow,
}
TO_REFUSED = both((S.VERIFIED, Event.REFUSE))
TO_ROLLED_BACK = both((S.TRIAL, Event.ROLL_BACK), (S.ROLLING_BACK, Event.RESTORE))
RESUMED = both((S.SWITCHING, Event.RESUME), (S.TRIAL, Event.RESUME))
SUPERSEDED = both((S.FETCHING, Event.SUPERSEDE))


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, v1: Built) -> Iterator[tuple[FakeCloud, Path]]:
    """A cloud and the state directory of a device of it that runs version 1."""
    folder = tmp_path_factory.mktemp("settled")
    cloud = FakeCloud(folder / "cloud")
    device = Device(folder / "device", cloud.device)
    device.enrol(cloud.token())
    cloud.publish(v1, 1)
    cloud.wish(v1, 1)
    device.start()
    cloud.wait_for(S.RUNNING)
    device.stop()
    yield cloud, device.state
    cloud.stop()


@pytest.fixture
def home(settled: tuple[FakeCloud, Path], tmp_path: Path) -> Iterator[Device]:
    """A copy of that device; the cloud forgets what later versions did."""
    cloud, state = settled
    shutil.copytree(state, tmp_path / "device", symlinks=True)
    cloud.reports.clear()
    cloud.desired_number, cloud.desired = 1, None
    device = Device(tmp_path / "device", cloud.device)
    yield device
    device.stop()


def die_at(device: Device, failpoint: str) -> None:
    """Run the agent until the failpoint kills it, then start it again."""
    device.start(failpoint=failpoint)
    assert device.wait_for_death() == -signal.SIGKILL, device.log()
    device.start()


@pytest.mark.parametrize("failpoint", [pytest.param(name, marks=SLOW.get(name, ())) for name in TO_RUNNING])
def test_a_good_version_runs_in_the_end(
    failpoint: str, settled: tuple[FakeCloud, Path], home: Device, v1: Built, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.sent.clear()
    cloud.wish(v2, 2)
    if failpoint.startswith("blob."):
        die_in_the_worker(home, cloud, failpoint)
    else:
        die_at(home, failpoint)
    report = cloud.wait_for(S.RUNNING)
    assert report.running is not None
    assert report.running.version == 2
    assert np.allclose(home.score_patiently(v2.samples), v2.answers, rtol=1e-4, atol=1e-2)
    heads = [cloud.sent[blob.digest] / blob.size for blob in v2.package.blobs() if cloud.sent[blob.digest]]
    assert set(heads) == {1.0}, "nothing may be pulled twice"


def die_in_the_worker(device: Device, cloud: FakeCloud, failpoint: str) -> None:
    """Let fetching die at a failpoint, which the agent survives, then take the failpoint away."""
    device.start(failpoint=failpoint)
    cloud.wait_until(lambda: next((r for r in cloud.reports if "SIGKILL" in r.reason), None), "the worker's end was not reported")
    device.kill()
    device.start()


@pytest.mark.parametrize("failpoint", TO_REFUSED)
def test_a_wrong_version_is_refused_in_the_end_and_the_old_one_runs(
    failpoint: str, settled: tuple[FakeCloud, Path], home: Device, v1: Built, wrong: Built
) -> None:
    cloud = settled[0]
    cloud.publish(wrong, 3)
    cloud.wish(wrong, 3)
    die_at(home, failpoint)
    report = cloud.wait_for(S.REFUSED)
    assert "must score the golden samples as its source does" in report.reason
    assert np.allclose(home.score_patiently(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("failpoint", TO_ROLLED_BACK)
def test_a_version_that_fails_its_trial_is_rolled_back_in_the_end(
    failpoint: str, settled: tuple[FakeCloud, Path], home: Device, v1: Built, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.wish(v2, 2, trial_s=120.0)
    home.start(failpoint=failpoint)
    cloud.wait_for(S.TRIAL)
    home.end_runners_until("2", lambda: home.process is not None and home.process.poll() is not None)
    assert home.wait_for_death() == -signal.SIGKILL
    home.start()
    home.end_runners_until("2", lambda: cloud.last_report().state in (S.ROLLING_BACK, S.ROLLED_BACK))
    report = cloud.wait_for(S.ROLLED_BACK)
    assert report.reason.startswith("the runner must stay up")
    assert report.reason.endswith("digits:1 runs again")
    assert np.allclose(home.score_patiently(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("failpoint", RESUMED)
def test_a_second_kill_in_the_middle_of_a_switch_changes_nothing(
    failpoint: str, settled: tuple[FakeCloud, Path], home: Device, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.wish(v2, 2)
    home.start(failpoint="switching.try.before" if failpoint.startswith("switching") else "trial.commit.before")
    assert home.wait_for_death() == -signal.SIGKILL
    die_at(home, failpoint)
    cloud.wait_for(S.RUNNING)
    resumed = [past for past in home.standing()["history"] if past["event"] == "resume"]
    assert len(resumed) == (1 if failpoint.endswith("before") else 2)


@pytest.mark.parametrize("failpoint", SUPERSEDED)
def test_a_version_that_gave_way_stays_so(failpoint: str, settled: tuple[FakeCloud, Path], home: Device, v2: Built) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.wish(v2, 2)
    home.start(failpoint="accepted.fetch.after")
    assert home.wait_for_death() == -signal.SIGKILL
    cloud.wish(v2, 2)
    die_at(home, failpoint)
    assert cloud.wait_for(S.RUNNING).desired_number == 3


def test_every_failpoint_named_here_exists() -> None:
    tried = {*TO_RUNNING, *TO_REFUSED, *TO_ROLLED_BACK, *RESUMED, *SUPERSEDED} - set(STORE_FAILPOINTS)
    assert tried <= set(failpoints())
