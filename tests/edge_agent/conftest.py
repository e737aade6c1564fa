"""Fixtures of the agent's tests: packages, a cloud with injectable faults, and a device whose agent is a real process."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import urllib3

from edge_agent.deployment.journal import KEPT_EVENTS, Journal
from edge_agent.identity.enrolment import enrol
from edge_agent.identity.identity import RECORD
from edge_agent.settings import SETTINGS_FILE
from edge_agent.state_directory import STATUS_FILE
from edge_agent.storage.store import Store
from edge_agent.telemetry.outbox import OUTBOX_FILE
from edgewright.contracts.messages import DeploymentState
from tests.support.device_packages import Array, Built, Recipe, build
from tests.support.fake_cloud import FakeCloud, Keys

COMMAND = (str(Path(sys.executable).with_name("edgewright")), "agent")
FILLER = "filler"
QUICK = """\
retry_base_s = 0.05
retry_cap_s = 0.5
probe_every_s = 0.2
measure_every_s = 0.5
report_every_s = 1.0
drain_timeout_s = 5.0
check_timeout_s = 20.0
return_every_s = 2.0
"""


class Device:
    """A device: a state directory and an agent process that can be started and stopped."""

    def __init__(self, state: Path, name: str) -> None:
        self.state = state
        self.name = name
        self.log_file = state / "agent.log"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=15))

    def enrol(self, token: str) -> None:
        """Enrol in this process; test_enrolment_of_a_device.py and the demo test the command."""
        enrol(self.state, token_text=token, device=self.name, profile="generic-x86-64")
        (self.state / SETTINGS_FILE).write_text(QUICK)

    def command(self, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, words[0], "--state", str(self.state), *words[1:]],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def start(self, *options: str, failpoint: str | None = None) -> None:
        """Start the agent; it is killed at `failpoint`, if given."""
        environment = {**os.environ, **({"EDGEWRIGHT_FAILPOINT": failpoint} if failpoint else {})}
        words = ["run", "--state", str(self.state), "--port", "0", "--transport", "https", "--json", *options]
        out = subprocess.PIPE if failpoint is None else subprocess.DEVNULL
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen([*COMMAND, *words], stdout=out, stderr=log, text=True, env=environment)
        if self.process.stdout is None:
            return
        with self.process.stdout as stdout:
            lines = [*itertools.takewhile(lambda line: line != "}\n", stdout), "}"]
        assert lines[0] == "{\n", f"the agent ended before it was ready: {self.log()}"
        self.url = json.loads("".join(lines))["scoring_url"]

    def kill(self) -> None:
        """Kill the agent with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def wait_for_exit(self, timeout_s: float = 30) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def runners(self, slot: str = "") -> list[psutil.Process]:
        """Return the runners of this device, of one slot or of all."""
        runners = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "edge_agent.scoring.runner" in command and any(word.startswith(f"{self.state}/slots/{slot}") for word in command):
                runners.append(process)
        return runners

    def end_runners_until(self, slot: str, done: Callable[[], bool], timeout_s: float = 45) -> None:
        """Kill every new runner of a slot until `done()`."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, self.log()
            for runner in self.runners(slot):
                with suppress(psutil.NoSuchProcess):
                    runner.kill()
            time.sleep(0.2)

    def stop(self) -> int | None:
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait(20)

    def explain(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.command("explain", "--json", check=True).stdout)
        return status

    def wait_for_rejected_state(self, reason: str, timeout_s: float = 45) -> None:
        """Wait until the journal of the running agent has a rejected desired state with `reason`; it is not reported."""
        journal, deadline = Journal.read_only(self.state), time.monotonic() + timeout_s
        assert journal is not None
        with closing(journal):
            while not any(past.event == "reject_desired" and reason in past.reason for past in journal.history(KEPT_EVENTS)):
                assert time.monotonic() < deadline, f"{reason}\n{self.log()}"
                time.sleep(0.05)

    def score(self, samples: Array) -> list[list[float]]:
        """Score samples at the device's address."""
        response = self.http.request("POST", f"{self.url}/score", json={"data": samples.tolist()})
        assert response.status == 200, response.data
        result: list[list[float]] = response.json()["result"]
        return result

    def runs(self, workload: str, built: Built) -> int:
        """Return the number of the desired state that a workload runs, after its answers were compared with those of `built`."""
        (progress,) = (each for each in self.explain()["workloads"] if each["workload"] == workload)
        response = self.http.request("POST", f"{progress['scoring_url']}/score", json={"data": built.samples.tolist()})
        assert response.status == 200, response.data
        assert np.allclose(response.json()["result"], built.answers, rtol=1e-4, atol=1e-2)
        number: int = progress["reported"]["desired_number"]
        return number

    def score_with_retries(self, samples: Array, timeout_s: float = 20) -> list[list[float]]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.score(samples)
            except (urllib3.exceptions.HTTPError, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def log(self) -> str:
        return self.log_file.read_text()


@pytest.fixture(scope="session")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("v1"))


@pytest.fixture(scope="session")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same featurizer with another head."""
    return build(tmp_path_factory.mktemp("v2"), Recipe(head_seed=2))


@pytest.fixture(scope="session")
def wrong_outputs(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A version whose outputs differ from its golden samples."""
    return build(tmp_path_factory.mktemp("wrong_outputs"), Recipe(head_seed=3, golden_is_wrong=True))


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


@pytest.fixture
def cloud(tmp_path: Path, keys: Keys) -> Iterator[FakeCloud]:
    running = FakeCloud(tmp_path / "cloud", keys=keys)
    yield running
    running.stop()


@pytest.fixture
def device(tmp_path: Path, cloud: FakeCloud) -> Iterator[Device]:
    """An enrolled device whose agent is not running."""
    enrolled = Device(tmp_path / "device", cloud.device)
    enrolled.enrol(cloud.token())
    yield enrolled
    enrolled.stop()


@pytest.fixture
def store(tmp_path: Path, cloud: FakeCloud) -> Store:
    """The store of an enrolled device."""
    enrol(tmp_path / "device", token_text=cloud.token(), device=cloud.device, profile="generic-x86-64")
    prepared = Store(tmp_path / "device")
    prepared.prepare()
    return prepared


@pytest.fixture(scope="session")
def settled(tmp_path_factory: pytest.TempPathFactory, keys: Keys, v1: Built) -> Path:
    """The state directory of a stopped device that runs version 1."""
    folder = tmp_path_factory.mktemp("settled")
    cloud = FakeCloud(folder / "cloud", keys=keys)
    device = Device(folder / "device", cloud.device)
    device.enrol(cloud.token())
    cloud.publish(v1, 1)
    cloud.set_desired(v1, 1)
    device.start()
    try:
        cloud.wait_for(DeploymentState.RUNNING)
    finally:
        device.stop()
        cloud.stop()
    return device.state


@pytest.fixture
def running(settled: Path, tmp_path: Path, cloud: FakeCloud, v1: Built) -> Iterator[Device]:
    """A device that runs version 1: a copy of the settled one with the address of another cloud and an empty outbox."""
    state = tmp_path / "device"
    shutil.copytree(settled, state, symlinks=True, ignore=shutil.ignore_patterns(STATUS_FILE, f"{OUTBOX_FILE}*", "agent.log"))
    enrolment = state / "identity" / RECORD
    record = json.loads(enrolment.read_bytes())
    enrolment.write_text(json.dumps({**record, "url": cloud.url}))
    device = Device(state, cloud.device)
    cloud.publish(v1, 1)
    cloud.set_desired(v1, 1)
    device.start()
    cloud.wait_for(DeploymentState.RUNNING)
    device.score_with_retries(v1.samples)
    yield device
    device.stop()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; test_fetch.py tests the same with an injected limit")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False, timeout=10).returncode != 0:
        pytest.skip("this machine does not permit mounts")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=10)


def fill_disk(disk: Path) -> None:
    """Write until the disk is full."""
    with (disk / FILLER).open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"\0" * 4096)
