"""`edgewright iotedge run` with a real engine: a manifest of a file, its failures, and containers of others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.iotedge.runtime.storage import opened
from tests.commands.conftest import CommandLine
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.edge_modules import IMAGE, agent, load_image, module, write


@pytest.fixture(scope="module")
def engine(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    with docker_engine(require) as engine:
        load_image(engine, tmp_path_factory.mktemp("image"))
        yield engine


@pytest.fixture
def edgewright(engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """The commands with the engine; containers are removed afterwards."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    yield CommandLine(tmp_path / "no-cloud")
    remove_all(engine)


def remove_all(engine: DockerEngine) -> None:
    """Remove the containers of an engine, and the network of modules with its bridge."""
    identities = engine.run("ps", "--all", "--quiet").split()
    if identities:
        engine.run("rm", "--force", *identities)
    engine.run("network", "rm", "azure-iot-edge", check=False)


@pytest.fixture
def foreign(engine: DockerEngine) -> str:
    """A container that is not ours, with the name of a module."""
    return engine.run(
        "run", "--detach", "--name", "taken", "--network", "none", "--volume", "/usr:/usr:ro", IMAGE, "/bin/sleep", "100000"
    )


def containers(engine: DockerEngine) -> dict[str, dict[str, Any]]:
    """Return the facts of all containers by name."""
    identities = engine.run("ps", "--all", "--quiet").split()
    found = json.loads(engine.run("inspect", *identities)) if identities else []
    return {each["Name"].lstrip("/"): each for each in found}


def test_modules_start_in_order_and_those_no_longer_named_are_removed(
    engine: DockerEngine, edgewright: CommandLine, foreign: str, tmp_path: Path
) -> None:
    state = ["--state", tmp_path / "state"]
    env = {"LEVEL": {"value": 3}, "ON": {"value": True}}
    late = module(order=2, options={"NetworkMode": ""})
    desired = agent(late=late, early=module(order=1, env=env, version="1.0"), idle=module(status="stopped"))
    file = write(tmp_path / "deployment.json", desired)
    reported = json.loads(edgewright.run("iotedge", "run", file, "--once", "--json", *state).stdout)
    assert reported["lastDesiredStatus"] == {"code": 200, "description": ""}
    shown = {name: (each["runtimeStatus"], each["restartCount"]) for name, each in reported["modules"].items()}
    assert shown == {"early": ("running", 0), "late": ("running", 0), "idle": ("stopped", 0)}
    assert reported["modules"]["early"]["version"] == "1.0"
    assert reported["systemModules"]["edgeHub"]["runtimeStatus"] == "unknown"
    found = containers(engine)
    assert found["early"]["State"]["StartedAt"] < found["late"]["State"]["StartedAt"]
    assert {"LEVEL=3", "ON=true", "IOTEDGE_MODULEID=early"} <= set(found["early"]["Config"]["Env"])
    assert list(found["late"]["NetworkSettings"]["Networks"]) == ["azure-iot-edge"]
    assert not found["idle"]["State"]["Running"]

    write(file, agent(early=module(order=1, env=env, version="1.0"), idle=module()))
    edgewright.ok("iotedge", "run", file, "--once", *state)
    after = containers(engine)
    assert set(after) == {"early", "idle", "taken"}
    assert after["early"]["Id"] == found["early"]["Id"]
    assert after["idle"]["State"]["Running"]
    assert (after["taken"]["Id"], after["taken"]["State"]["Running"]) == (foreign, True)

    write(file, agent(early=module("exec sleep 100000", order=1)))
    edgewright.ok("iotedge", "run", file, "--once", *state)
    assert containers(engine)["early"]["Id"] != found["early"]["Id"]


@pytest.mark.usefixtures("foreign")
def test_modules_that_cannot_run_are_reported_and_the_others_run(
    engine: DockerEngine, edgewright: CommandLine, foreign: str, tmp_path: Path
) -> None:
    other = "edgewright-test/other:1"
    load_image(engine, tmp_path, architecture="s390x", name=other)
    pulled = module(imagePullPolicy="on-create")
    pulled["settings"]["image"] = "127.0.0.1:9/ghost:1"
    missing, wrong = module(), module()
    missing["settings"]["image"], wrong["settings"]["image"] = "no-such-image:1", other
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}}
        modules = {"good": module(), "pulled": pulled, "missing": missing, "wrong": wrong, "taken": module()}
        file = write(tmp_path / "deployment.json", agent(**modules, published=module(options=ports)))
        result = edgewright.run("iotedge", "run", file, "--once", "--json", "--state", tmp_path / "state")
    assert result.exit_code == 1
    assert "the deployment must succeed, but its status is 500" in result.stderr
    reported = json.loads(result.stdout)
    texts = {name: each["statusDescription"] for name, each in reported["modules"].items()}
    assert texts["good"] == "running"
    assert texts["pulled"].startswith("the image 127.0.0.1:9/ghost:1 cannot be pulled: ")
    assert texts["missing"].startswith("the image no-such-image:1 must be on this machine, because imagePullPolicy is never")
    assert texts["wrong"].startswith(f"the image {other} must be for ")
    assert texts["wrong"].endswith("but it is for s390x")
    assert texts["taken"].startswith("the name taken must be free for the module")
    assert "address already in use" in texts["published"]
    assert reported["lastDesiredStatus"]["code"] == 500
    assert "pulled: the image 127.0.0.1:9/ghost:1 cannot be pulled" in reported["lastDesiredStatus"]["description"]
    found = containers(engine)
    assert found["good"]["State"]["Running"]
    assert (found["taken"]["Id"], found["taken"]["State"]["Running"]) == (foreign, True)


def _without(desired: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in desired.items() if key != name}


@pytest.mark.parametrize(
    ("desired", "line"),
    [
        pytest.param({}, "deployment 417: the device must have a deployment", id="empty"),
        pytest.param(
            {**agent(), "schemaVersion": "2.0"}, "deployment 412: schemaVersion must be 1.0 or 1.1, not '2.0'", id="new schema"
        ),
        pytest.param(_without(agent(), "schemaVersion"), "deployment 412: schemaVersion must be 1.0 or 1.1", id="no schema"),
        pytest.param(
            agent(one=module(restartPolicy="sometimes")),
            "deployment 400: the deployment has a fault at modulesContent/$edgeAgent/properties.desired/modules/one/",
            id="bad policy",
        ),
        pytest.param(_without(agent(), "runtime"), "deployment 400: ", id="no runtime"),
    ],
)
def test_a_manifest_that_cannot_be_applied_has_the_code_of_the_agent(desired: dict[str, Any], line: str, tmp_path: Path) -> None:
    file = write(tmp_path / "deployment.json", desired)
    assert line in CommandLine(tmp_path).refused("iotedge", "run", file, "--state", tmp_path / "state")


def test_without_an_engine_a_run_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "deployment.json", agent())
    words = ["iotedge", "run", str(file), "--state", str(tmp_path / "state")]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    result = subprocess.run([sys.executable, "-m", "edgewright", *words], env=environment, capture_output=True, text=True)
    assert result.returncode == 3
    assert "the container engine does not answer" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_second_runtime_with_the_same_state_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "deployment.json", agent())
    with opened(tmp_path / "state"):
        line = CommandLine(tmp_path).refused("iotedge", "run", file, "--state", tmp_path / "state")
    assert "one runtime at most may use" in line
