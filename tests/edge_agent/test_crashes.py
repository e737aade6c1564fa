"""After a kill at any failpoint the agent recovers: the new version runs, or its failure is reported and the old one runs.

Each case starts with a device that runs version 1, beside another workload. It is killed by SIGKILL at one failpoint of the
update to version 2 and started again. The failpoints are those of the state table and of the store. The other workload keeps its
version. `pytest -m slow` runs the cases without another workload, too.
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
# Tested elsewhere too, or equivalent to the failpoint before; `pytest -m slow` runs them as well.
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


@pytest.fixture(
    scope="module",
    params=[pytest.param((), id="alone", marks=pytest.mark.slow), pytest.param(("ocr",), id="beside another workload")],
)
def settled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, v1: Built
) -> Iterator[tuple[FakeCloud, Path]]:
    """A cloud and the state directory of its device, which runs version 1."""
    folder = tmp_path_factory.mktemp("settled")
    cloud = FakeCloud(folder / "cloud")
    device = Device(folder / "device", cloud.device)
    device.enrol(cloud.token())
    cloud.publish(v1, 1)
    device.start()
    for workload in ("digits", *request.param):
        cloud.set_desired(v1, 1, workload=workload)
        cloud.wait_for(S.RUNNING)
    device.stop()
    yield cloud, device.state
    cloud.stop()


@pytest.fixture
def copied(settled: tuple[FakeCloud, Path], tmp_path: Path, v1: Built) -> Iterator[Device]:
    """A copy of that device; the cloud has no reports and no desired state of later versions.

    In the end every other workload must run version 1, in the slot that it had.
    """
    cloud, state = settled
    shutil.copytree(state, tmp_path / "device", symlinks=True)
    cloud.reports.clear()
    before = cloud.desired_number, cloud.desired, dict(cloud.workloads)
    cloud.desired = None
    device = Device(tmp_path / "device", cloud.device)
    yield device
    others = [name for name in before[2] if name != "digits"]
    assert [device.runs(name, v1) for name in others] == [before[2][name].desired_number for name in others]
    device.stop()
    cloud.desired_number, cloud.desired, cloud.workloads = before


def kill_at(device: Device, failpoint: str) -> None:
    """Run the agent until the failpoint kills it, then start it without the failpoint."""
    device.start(failpoint=failpoint)
    assert device.wait_for_exit() == -signal.SIGKILL, device.log()
    device.start()


@pytest.mark.parametrize("failpoint", [pytest.param(name, marks=SLOW.get(name, ())) for name in TO_RUNNING])
def test_a_good_version_runs_after_a_kill(
    failpoint: str, settled: tuple[FakeCloud, Path], copied: Device, v1: Built, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.sent.clear()
    cloud.set_desired(v2, 2)
    if failpoint.startswith("blob."):
        kill_worker_at(copied, cloud, failpoint)
    else:
        kill_at(copied, failpoint)
    report = cloud.wait_for(S.RUNNING)
    assert report.running is not None
    assert report.running.version == 2
    assert np.allclose(copied.score_with_retries(v2.samples), v2.answers, rtol=1e-4, atol=1e-2)
    heads = [cloud.sent[blob.digest] / blob.size for blob in v2.files() if cloud.sent[blob.digest]]
    assert set(heads) == {1.0}, "no blob may be pulled twice"


def kill_worker_at(device: Device, cloud: FakeCloud, failpoint: str) -> None:
    """Let a failpoint kill the worker that fetches, then restart the agent without the failpoint."""
    device.start(failpoint=failpoint)
    cloud.wait_until(
        lambda: next((r for r in cloud.reports if "SIGKILL" in r.reason), None), "the kill of the worker was not reported"
    )
    device.kill()
    device.start()


@pytest.mark.parametrize("failpoint", TO_REFUSED)
def test_a_wrong_version_is_refused_after_a_kill_and_the_old_one_runs(
    failpoint: str, settled: tuple[FakeCloud, Path], copied: Device, v1: Built, wrong_outputs: Built
) -> None:
    cloud = settled[0]
    cloud.publish(wrong_outputs, 3)
    cloud.set_desired(wrong_outputs, 3)
    kill_at(copied, failpoint)
    report = cloud.wait_for(S.REFUSED)
    assert "must score the golden samples as its source does" in report.reason
    assert np.allclose(copied.score_with_retries(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("failpoint", TO_ROLLED_BACK)
def test_a_version_that_fails_its_trial_is_rolled_back_after_a_kill(
    failpoint: str, settled: tuple[FakeCloud, Path], copied: Device, v1: Built, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2, trial_s=120.0)
    copied.start(failpoint=failpoint)
    cloud.wait_for(S.TRIAL)
    copied.end_runners_until(str(cloud.desired_number), lambda: copied.process is not None and copied.process.poll() is not None)
    assert copied.wait_for_exit() == -signal.SIGKILL
    copied.start()
    copied.end_runners_until(str(cloud.desired_number), lambda: cloud.last_report().state in (S.ROLLING_BACK, S.ROLLED_BACK))
    report = cloud.wait_for(S.ROLLED_BACK)
    assert report.reason.startswith("the runner must stay up")
    assert report.reason.endswith("digits:1 runs again")
    assert np.allclose(copied.score_with_retries(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("failpoint", RESUMED)
def test_a_second_kill_in_the_middle_of_a_switch_changes_nothing(
    failpoint: str, settled: tuple[FakeCloud, Path], copied: Device, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2)
    copied.start(failpoint="switching.try.before" if failpoint.startswith("switching") else "trial.commit.before")
    assert copied.wait_for_exit() == -signal.SIGKILL
    kill_at(copied, failpoint)
    cloud.wait_for(S.RUNNING)
    resumed = [past for past in copied.explain()["history"] if past["event"] == "resume"]
    assert len(resumed) == (1 if failpoint.endswith("before") else 2)


@pytest.mark.parametrize("failpoint", SUPERSEDED)
def test_a_superseded_version_stays_superseded(
    failpoint: str, settled: tuple[FakeCloud, Path], copied: Device, v2: Built
) -> None:
    cloud = settled[0]
    cloud.publish(v2, 2)
    cloud.set_desired(v2, 2)
    copied.start(failpoint="accepted.fetch.after")
    assert copied.wait_for_exit() == -signal.SIGKILL
    cloud.set_desired(v2, 2)
    kill_at(copied, failpoint)
    number = cloud.desired_number
    assert cloud.wait_for(S.RUNNING).desired_number == number


def test_every_failpoint_in_this_module_exists() -> None:
    tested = {*TO_RUNNING, *TO_REFUSED, *TO_ROLLED_BACK, *RESUMED, *SUPERSEDED} - set(STORE_FAILPOINTS)
    assert tested <= set(failpoints())
