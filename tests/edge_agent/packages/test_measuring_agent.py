"""Choice by measuring with real agent processes: reports, and recovery after kills."""

from __future__ import annotations

import json
import re
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
    """A package whose slow variant is preferred by the profile."""
    return build(tmp_path_factory.mktemp("slow_fp32"), Recipe(others=(Precision.INT8,), slow=("fp32",)))


@pytest.fixture
def measuring(device: Device) -> Device:
    """A device that chooses by measuring; its profile prefers fp32."""
    return choose_by_measuring(device)


def choose_by_measuring(device: Device) -> Device:
    settings = device.state / "agent.toml"
    settings.write_text(settings.read_text() + MEASURED)
    return device


def test_the_cloud_and_the_device_show_the_results_and_the_device_resets_them(tmp_path: Path, slow_fp32: Built) -> None:
    with fleet(tmp_path, "--no-broker") as here:
        here.publish(slow_fp32, 1)
        choose_by_measuring(here.device).start()
        here.set_desired(slow_fp32, 1)
        record = here.record_when(runs(1))
        status = here.device.explain()
        text = here.device.command("explain", check=True).stdout
        shown = here.device.command("benchmark", "digits", "--json", check=True).stdout
        deleted = here.device.command("benchmark", "digits", "--reset", "--json", check=True).stdout
        empty, refused = here.device.command("benchmark"), here.device.command("benchmark", "digits", "--reset")
    assert record["reported"]["running"]["variant"] == "int8"
    assert record["reported"]["choice"][1].startswith("int8 is chosen: measured fastest here, ")
    assert status["reported"]["choice"] == record["reported"]["choice"]
    assert [(times["model"], times["version"], times["fastest"]) for times in status["measured"]] == [("digits", 1, "int8")]
    assert "  int8 is chosen: measured fastest here, " in text
    assert re.search(r"digits +1 +[-0-9]+ [:0-9]+ +this device +int8 ", text)
    assert json.loads(shown) == status["measured"]
    assert json.loads(deleted) == {"reset": ["digits"]}
    assert empty.stdout == "no benchmark results\n"
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_an_agent_killed_while_measuring_leaves_no_process_and_measures_again(
    measuring: Device, cloud: FakeCloud, slow_fp32: Built
) -> None:
    cloud.publish(slow_fp32, 1)
    cloud.set_desired(slow_fp32, 1)
    measuring.start()
    worker = wait_for(lambda: next(iter(benchmark_workers_of(measuring)), None), measuring.log)
    assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text() == "1000\n", (
        "the out-of-memory killer must prefer it to the runner"
    )
    assert measuring.process is not None
    family = [*psutil.Process(measuring.process.pid).children(recursive=True), worker]
    measuring.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    measuring.start()
    report = cloud.wait_for(S.RUNNING)
    assert report.running is not None
    assert report.running.variant == "int8"
    assert no_temporary_files(measuring)


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", MEASURE_FAILPOINTS)
def test_after_a_kill_of_the_measuring_worker_the_next_one_measures_again(
    failpoint: str, measuring: Device, cloud: FakeCloud, slow_fp32: Built
) -> None:
    cloud.publish(slow_fp32, 1)
    cloud.set_desired(slow_fp32, 1)
    measuring.start(failpoint=failpoint)
    cloud.wait_until(
        lambda: next((r for r in cloud.reports if "SIGKILL" in r.reason), None), "the kill of the worker was not reported"
    )
    measuring.kill()
    measuring.start()
    report = cloud.wait_for(S.RUNNING)
    assert report.choice[1].startswith("int8 is chosen: measured fastest here")
    assert no_temporary_files(measuring)
    assert {cloud.sent[blob.digest] / blob.size for blob in slow_fp32.files()} == {1.0}, "no blob may be pulled twice"


def test_if_every_attempt_at_measuring_is_killed_the_profile_decides(
    measuring: Device, cloud: FakeCloud, slow_fp32: Built
) -> None:
    cloud.publish(slow_fp32, 1)
    cloud.set_desired(slow_fp32, 1)
    measuring.start(failpoint="measure.after_layout")
    report = cloud.wait_for(S.RUNNING)
    assert report.choice[0] == (
        "fp32 is chosen: generic-x86-64 prefers fp32 most. Nothing was measured: 3 attempts failed (was ended by SIGKILL)."
    )
    assert no_temporary_files(measuring)


def no_temporary_files(device: Device) -> bool:
    return not (device.state / "measuring").exists() and not list((device.state / "measured").glob(".*"))


def benchmark_workers_of(device: Device) -> list[psutil.Process]:
    """Return the processes that benchmark this device's variants."""
    assert device.process is not None
    processes = []
    for process in psutil.Process(device.process.pid).children(recursive=True):
        try:
            if "accel.backends.benchmark_worker" in process.cmdline():
                processes.append(process)
        except psutil.NoSuchProcess:
            continue
    return processes


def wait_for(find: Callable[[], psutil.Process | None], context: Callable[[], str]) -> psutil.Process:
    """Poll for a process, because its start sends no notification."""
    deadline = time.monotonic() + 45
    while (process := find()) is None:
        assert time.monotonic() < deadline, context()
        time.sleep(0.02)
    return process
