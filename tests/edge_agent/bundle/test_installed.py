"""The agent of a bundle in a root filesystem of Debian: install, enrol, pull, choose, score, roll back, reboot, import."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import urllib3

from edge_agent.settings import SETTINGS_FILE
from edgewright.contracts import signing
from edgewright.contracts.messages import IMPORTED_FROM
from edgewright.contracts.variant import Precision
from tests.edge_agent.conftest import QUICK
from tests.edge_agent.test_import import stick
from tests.support import real_fleet
from tests.support.device_packages import Built, Recipe, build
from tests.support.real_fleet import NAME, Fleet, runs
from tests.support.root_filesystem import RootFilesystem, make
from tests.support.running_cloud import running

LARGEST_MB = 150
WAIT_S = 900.0
STATE = "var/lib/edgewright/agent"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@contextmanager
def agent(root: RootFilesystem, log: Path) -> Iterator[str]:
    """Run the installed agent; yield the address at which it scores."""
    words = ("edgewright-agent", "run", "--port", "0", "--transport", "https", "--json")
    with log.open("a") as stream:
        process = subprocess.Popen(root.command(*words), stdout=subprocess.PIPE, stderr=stream, text=True)
    assert process.stdout is not None
    try:
        output = "".join(iter(process.stdout.readline, "}\n")) + "}"
        yield json.loads(output)["scoring_url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        finally:
            process.kill()
            process.stdout.close()


def score(url: str, built: Built) -> None:
    """Compare the answers to the samples of a package with those that were computed apart from its graph."""
    response = urllib3.PoolManager().request("POST", f"{url}/score", json={"data": built.samples.tolist()}, timeout=120)
    assert response.status == 200, response.data
    assert np.allclose(response.json()["result"], built.answers, rtol=1e-4, atol=1e-2)


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def memory_mb(root: RootFilesystem, word: str) -> int:
    resident: int = sum(process.memory_info().rss for process in root.processes(word))
    return resident // 1_000_000


@pytest.mark.parametrize(
    ("suite", "python", "architecture", "profile", "variant"),
    [
        pytest.param("bookworm", "3.11", "amd64", "generic-x86-64", "fp32", id="Debian 12 on amd64"),
        pytest.param("bookworm", "3.11", "arm64", "raspberry-pi-4", "int8", id="Debian 12 on arm64"),
        pytest.param("trixie", "3.13", "amd64", "generic-x86-64", "fp32", id="Debian 13 on amd64"),
        pytest.param("trixie", "3.13", "arm64", "raspberry-pi-4", "int8", id="Debian 13 on arm64"),
    ],
)
def test_an_installed_agent_deploys_scores_rolls_back_and_survives_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str, python: str, architecture: str, profile: str, variant: str
) -> None:
    monkeypatch.setattr(real_fleet, "WAIT_S", WAIT_S)
    root = make(tmp_path, suite, architecture)
    first = build(tmp_path / "v1", Recipe(others=(Precision.INT8,)))
    second = build(tmp_path / "v3", Recipe(others=(Precision.INT8,), head_seed=2))
    wrong = build(tmp_path / "v2", Recipe(others=(Precision.INT8,), golden_is_wrong=True, head_seed=3))
    install(root, tmp_path, architecture, python)

    key = signing.generate_key()
    publisher = tmp_path / "publisher.pub"
    publisher.write_text(signing.public_pem(key.public_key()))
    log = tmp_path / "agent.log"
    with running(tmp_path / "cloud", "--trust", str(publisher), "--no-broker") as cloud:
        here = Fleet(cloud, key, tmp_path)
        here.device.log_file = log
        token = cloud.operator().post("/v1/tokens", {}).json()["token"]
        enrolled = root.run("edgewright-agent", "enrol", "--token", token, "--name", NAME, "--profile", profile)
        assert enrolled.returncode == 0, enrolled.stderr
        print(enrolled.stdout, end="")
        (root.path / STATE / SETTINGS_FILE).write_text(QUICK.replace("check_timeout_s = 20.0", "check_timeout_s = 300.0"))
        here.publish(first, 1)
        with agent(root, log) as url:
            here.set_desired(first, 1)
            record = here.record_when(runs(1))
            assert record["reported"]["running"]["variant"] == variant
            score(url, first)
            print(f"memory: agent {memory_mb(root, 'run')} MB, runner {memory_mb(root, 'edge_agent.scoring.runner')} MB")
            here.publish(wrong, 2)
            here.set_desired(wrong, 2)
            record = here.record_when(lambda record: (record["reported"] or {}).get("state") == "refused")
            assert "golden samples" in record["reported"]["reason"]
            score(url, first)
            roll_back(here, root, second)
            score(url, first)
            for process in [*root.processes("run"), *root.processes("edge_agent.scoring.runner")]:
                process.kill()
    with agent(root, log) as url:  # the cloud is gone
        score(url, first)
        shutil.copy(stick(tmp_path / "stick", second, 4, key), root.path / "media" / "package.tar")
        imported = root.run("edgewright-agent", "import", "/media/package.tar", "--trial-s", "1", "--wait")
        assert imported.returncode == 0, imported.stderr
        print(imported.stdout, end="")
        score(url, second)
        status = json.loads(root.run("edgewright-agent", "status", "--json").stdout)
        assert status["reported"]["desired_number"] == IMPORTED_FROM


def install(root: RootFilesystem, folder: Path, architecture: str, python: str) -> None:
    """Install a bundle by its own script and check the size."""
    tar = folder / "agent.tar"
    command = [str(Path(sys.executable).with_name("edgewright")), "agent", "bundle"]
    subprocess.run([*command, "--arch", architecture, "--python", python, "-o", str(tar)], check=True, timeout=1800)
    with tarfile.open(tar) as archive:
        archive.extractall(root.path / "media", filter="data")
        name = archive.getnames()[0].split("/")[0]
    installed = root.run("sh", f"/media/{name}/install.sh", timeout_s=1800)
    assert installed.returncode == 0, installed.stderr
    print(installed.stdout, end="")
    sizes = root.run("du", "-sm", "/opt/edgewright").stdout
    print(sizes, end="")
    assert int(sizes.split()[0]) <= LARGEST_MB


def roll_back(here: Fleet, root: RootFilesystem, built: Built) -> None:
    """Deploy version 3 with a long trial, and end its runner until the agent returns to version 1."""
    here.publish(built, 3)
    here.set_desired(built, 3, trial_s=3600.0)
    here.record_when(lambda record: (record["reported"] or {}).get("state") == "trial")
    ended: set[int] = set()

    def is_back() -> bool:
        reported = here.cloud.operator().get(f"/v1/devices/{NAME}").json()["reported"]
        if reported["state"] == "trial":
            for process in root.processes("edge_agent.scoring.runner"):
                if process.pid not in ended and any(word.endswith("/slots/3") for word in process.cmdline()):
                    ended.add(process.pid)
                    process.kill()
        return bool(reported["state"] == "rolled_back" and reported["running"]["version"] == 1)

    wait_until(is_back)
