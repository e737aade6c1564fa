"""An image under a real podman: pulled from a real registry, without rights, on a read-only root (protocol.md P100)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewright.contracts.environments.images import ImageRequest
from edgewright.sdk import CloudClient
from tests.support.docker_registry import docker_registry, free_port
from tests.support.image_services import KEY, score, wait_until_answered
from tests.support.running_cloud import running

pytestmark = pytest.mark.slow

# runc and cgroupfs work on hosts with a mixture of cgroup versions, where crun does not; limits may not be raised in containers.
CONFIGURATION = """\
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
SCRIPT = """\
import json, os

def init():
    pass

def run(body):
    return {"sum": sum(json.loads(body)["data"]), "uid": os.getuid()}
"""


class Podman:
    """Podman with images and containers below one folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        (folder / "containers.conf").write_text(CONFIGURATION)
        storage = ("--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "overlay")
        self._command = [str(program), *storage]
        self._environment = {**os.environ, "CONTAINERS_CONF": f"{folder}/containers.conf"}

    def run(self, *arguments: object, check: bool = True) -> str:
        command = [*self._command, *map(str, arguments)]
        finished = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=240)
        assert not check or finished.returncode == 0, finished.stderr
        return finished.stdout.strip()


@pytest.fixture
def podman(require: Callable[[str], Path]) -> Iterator[Podman]:
    program = require("podman")
    require("runc")
    if os.geteuid() != 0:
        pytest.skip("podman of the tests' own needs root")
    folder = Path(tempfile.mkdtemp(prefix="ewp", dir="/tmp"))  # podman accepts 50 characters at most
    engine = Podman(program, folder)
    yield engine
    engine.run("rm", "--all", "--force", "--time", "5", check=False)
    engine.run("rmi", "--all", "--force", check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_p100_podman_runs_the_image_without_rights(podman: Podman, require: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o755)
    (keys / "keys.json").write_text(json.dumps({"primary": KEY, "secondary": "secondary-key-of-the-test"}))
    (keys / "keys.json").chmod(0o644)
    port = free_port()
    with (
        running(tmp_path / "state", "--no-broker"),
        CloudClient.connect(str(tmp_path / "state")) as client,
        docker_registry(require("docker-registry"), tmp_path, free_port(), {}) as host,
    ):
        request = ImageRequest(name="sums")
        image = client.wait_for_image(client.build_image(request, script=tmp_path / "score.py"))
        client.push_image(image, f"{host}/team/sums:1")
        podman.run("pull", "--tls-verify=false", f"{host}/team/sums:1")
    rights = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    options = ("--detach", "--name", "sums", "--network", "host", "--volume", f"{keys}:/run/edgewright:ro", *rights)
    podman.run("run", *options, f"{host}/team/sums:1", "--keys", "/run/edgewright/keys.json", "--port", port)
    address = f"127.0.0.1:{port}"
    wait_until_answered(address, lambda: podman.run("logs", "sums", check=False))
    assert score(address, {"data": [1, 2]}) == (200, {"sum": 3, "uid": 65534})
    podman.run("stop", "--time", "20", "sums")
    assert podman.run("inspect", "--format", "{{.State.ExitCode}}", "sums") == "0"
