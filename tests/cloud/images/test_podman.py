"""An image under a real podman: pulled from a real registry, without rights, on a read-only root (protocol.md P100)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewright.contracts.environments.images import ImageRequest
from edgewright.sdk import CloudClient
from tests.support.docker_registry import docker_registry, free_port
from tests.support.image_services import KEY, score, wait_until_answered
from tests.support.podman_engine import Podman, podman
from tests.support.running_cloud import running

pytestmark = pytest.mark.slow

SCRIPT = """\
import json, os

def init():
    pass

def run(body):
    return {"sum": sum(json.loads(body)["data"]), "uid": os.getuid()}
"""


@pytest.fixture
def engine(require: Callable[[str], Path]) -> Iterator[Podman]:
    with podman(require) as engine:
        yield engine


def test_p100_podman_runs_the_image_without_rights(engine: Podman, require: Callable[[str], Path], tmp_path: Path) -> None:
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
        engine.run("pull", "--tls-verify=false", f"{host}/team/sums:1")
    rights = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    options = ("--detach", "--name", "sums", "--network", "host", "--volume", f"{keys}:/run/edgewright:ro", *rights)
    engine.run("run", *options, f"{host}/team/sums:1", "--keys", "/run/edgewright/keys.json", "--port", port)
    address = f"127.0.0.1:{port}"
    wait_until_answered(address, lambda: engine.run("logs", "sums", check=False))
    assert score(address, {"data": [1, 2]}) == (200, {"sum": 3, "uid": 65534})
    engine.run("stop", "--time", "20", "sums")
    assert engine.run("inspect", "--format", "{{.State.ExitCode}}", "sums") == "0"
