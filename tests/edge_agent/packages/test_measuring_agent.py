"""An agent that chooses by measuring, as processes: what it tells, and what stays of it when it is killed meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edge_agent.storage.failpoints import MEASURE_FAILPOINTS
from edgewright.contracts.messages import DeploymentState
from edgewright.contracts.variant import Precision
from tests.edge_agent.conftest import Device
from tests.support.device_packages import Built, Recipe, build
from tests.support.fake_cloud import FakeCloud
from tests.support.real_fleet import fleet, runs

S = DeploymentState
MEASURED = '\nchoose = "measured"\nbackend = "onnxruntime"\nthreads = 1\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def slow_fp32(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A package of which the profile prefers the variant that is slow."""
    return build(tmp_path_factory.mktemp("slow_fp32"), Recipe(others=(Precision.INT8,), slow=("fp32",)))


@pytest.fixture
def measuring(device: Device) -> Device:
    """A device that chooses by measuring; its profile prefers fp32."""
    return choose_by_measuring(device)


def choose_by_measuring(device: Device) -> Device:
    settings = device.state / "agent.toml"
    settings.write_text(settings.read_text() + MEASURED)
    return device


def test_the_cloud_and_the_device_tell_what_was_measured_and_forget_it_on_demand(tmp_path: Path, slow_fp32: Built) -> None:
    with fleet(tmp_path, "--no-broker") as here:
        here.publish(slow_fp32, 1)
        choose_by_measuring(here.device).start()
        here.want(slow_fp32, 1)
        record = here.record_when(runs(1))
        standing = here.device.standing()
        told = here.device.command("explain", check=True).stdout
        forgotten = here.device.command("remeasure", "digits", "--json", check=True).stdout
        nothing, refused = here.device.command("remeasure"), here.device.command("remeasure", "digits")
    assert record["reported"]["running"]["variant"] == "int8"
    assert record["reported"]["choice"][1].startswith("int8 is chosen: measured fastest here, ")
    assert standing["reported"]["choice"] == record["reported"]["choice"]
    assert [(times["model"], times["version"], times["fastest"]) for times in standing["measured"]] == [("digits", 1, "int8")]
    assert "  int8 is chosen: measured fastest here, " in told
    assert "measured  with version" in told
    assert json.loads(forgotten) == {"forgotten": ["digits"]}
    assert nothing.stdout == "nothing was measured here\n"
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_an_agent_that_is_killed_while_measuring_leaves_no_process_and_measures_again(
    measuring: Device, cloud: FakeCloud, slow_fp32: Built
) -> None:
    cloud.publish(slow_fp32, 1)
    cloud.wish(slow_fp32, 1)
    measuring.start()
    contestant = wait_for(lambda: next(iter(benchmark_workers_of(measuring)), None), measuring.log)
    assert Path(f"/proc/{contestant.pid}/oom_score_adj").read_text() == "1000\n", "what scores must outlive it"
    assert measuring.process is not None
    family = [*psutil.Process(measuring.process.pid).children(recursive=True), contestant]
    measuring.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    measuring.start()
    report = cloud.wait_for(S.RUNNING)
    assert report.running is not None
    assert report.running.variant == "int8"
    assert nothing_is_left(measuring)


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", MEASURE_FAILPOINTS)
def test_a_worker_that_is_killed_while_measuring_is_followed_by_one_that_measures_again(
    failpoint: str, measuring: Device, cloud: FakeCloud, slow_fp32: Built
) -> None:
    cloud.publish(slow_fp32, 1)
    cloud.wish(slow_fp32, 1)
    measuring.start(failpoint=failpoint)
    cloud.wait_until(lambda: next((r for r in cloud.reports if "SIGKILL" in r.reason), None), "the worker's end was not reported")
    measuring.kill()
    measuring.start()
    report = cloud.wait_for(S.RUNNING)
    assert report.choice[1].startswith("int8 is chosen: measured fastest here")
    assert nothing_is_left(measuring)
    assert {cloud.sent[blob.digest] / blob.size for blob in slow_fp32.package.blobs()} == {1.0}, "nothing may be pulled twice"


def test_where_every_try_of_measuring_is_killed_the_profile_decides_in_the_end(
    measuring: Device, cloud: FakeCloud, slow_fp32: Built
) -> None:
    cloud.publish(slow_fp32, 1)
    cloud.wish(slow_fp32, 1)
    measuring.start(failpoint="measure.after_layout")
    report = cloud.wait_for(S.RUNNING)
    assert report.choice[0] == (
        "fp32 is chosen: generic-x86-64 prefers fp32 most. Nothing was measured: 3 attempts failed (was ended by SIGKILL)."
    )
    assert nothing_is_left(measuring)


def nothing_is_left(device: Device) -> bool:
    return not (device.state / "measuring").exists() and not list((device.state / "measured").glob(".*"))


def benchmark_workers_of(device: Device) -> list[psutil.Process]:
    """The processes in which this device's variants are measured now."""
    assert device.process is not None
    found = []
    for process in psutil.Process(device.process.pid).children(recursive=True):
        try:
            if "accel.backends.benchmark_worker" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(found: Callable[[], psutil.Process | None], context: Callable[[], str]) -> psutil.Process:
    """Look again and again: nothing tells of a process that was started."""
    deadline = time.monotonic() + 45
    while (process := found()) is None:
        assert time.monotonic() < deadline, context()
        time.sleep(0.02)
    return process
