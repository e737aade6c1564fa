"""Models in containers: a real engine runs the slots of a real agent; trial, hand-over and restarts are those of processes."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_agent.settings import SETTINGS_FILE, load_settings
from edgewright.contracts.environments.definition import Environment
from edgewright.contracts.messages import DeploymentState, FailureCause
from edgewright.errors import BadInputError
from edgewright.profiling.load import run_load
from edgewright.profiling.load_messages import LoadRequest
from edgewright.sdk import CloudClient
from tests.edge_agent.conftest import Device
from tests.edge_agent.test_workloads import scoring_without_failure
from tests.support.device_packages import Built
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.fake_cloud import FakeCloud
from tests.support.podman_engine import podman_engine
from tests.support.running_cloud import running as running_cloud

S = DeploymentState
WAIT_S = 120.0


@pytest.fixture(scope="module", params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, require: Callable[[str], Path]) -> Iterator[DockerEngine]:
    with (docker_engine if request.param == "docker" else podman_engine)(require) as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest reference of an image with an environment alone, which the engine has pulled from the cloud that built it."""
    with running_cloud(tmp_path_factory.mktemp("builder") / "state", "--no-broker") as cloud:
        shutil.copy(cloud.ca, engine.folder)  # podman's; docker needs none on 127.0.0.0/8
        with CloudClient.connect(str(cloud.state)) as client:
            record = client.build_environment(client.create_environment(Environment(name="runtime")))
            reference = client.image_location(client.wait_for_image(record))
        engine.run("login", "--username", "operator", "--password-stdin", reference.partition("/")[0], text=cloud.token)
        engine.run("pull", reference)
    digests: list[str] = json.loads(engine.run("inspect", "--format", "{{json .RepoDigests}}", reference))
    return digests[0]


@pytest.fixture
def boxed(running: Device, engine: DockerEngine, image: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device whose models run in containers; it runs version 1."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    restart_in_containers(running, image)
    return running


def restart_in_containers(device: Device, image: str) -> None:
    device.stop()
    with (device.state / SETTINGS_FILE).open("a") as settings:
        settings.write(f'[container]\nimage = "{image}"\ncpus = 1.5\nmemory_bytes = 500000000\n')
    device.start()


def containers(engine: DockerEngine) -> list[str]:
    return engine.run("ps", "--quiet").split()


def inspected(engine: DockerEngine, container: str) -> dict[str, Any]:
    document: list[dict[str, Any]] = json.loads(engine.run("inspect", container))
    return document[0]


def rights(pid: int) -> dict[str, str]:
    """Return the capabilities of a process and whether it may gain some, as the kernel has them (proc(5))."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: lines[name] for name in ("CapPrm", "CapEff", "NoNewPrivs")}


def drivers(device: Device) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "edge_agent.drivers.container" in command and any(word.startswith(f"{device.state}/slots/") for word in command):
            found.append(process)
    return found


def test_a_model_scores_in_a_container_without_network_or_rights(
    boxed: Device, engine: DockerEngine, image: str, v1: Built
) -> None:
    boxed.score_with_retries(v1.samples, WAIT_S)
    [container] = containers(engine)
    facts = inspected(engine, container)
    host = facts["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == ("none", True, False)
    assert host["Memory"] == 500_000_000
    assert rights(facts["State"]["Pid"]) == {"CapPrm": "0" * 16, "CapEff": "0" * 16, "NoNewPrivs": "1"}
    assert [(each["Destination"], each["RW"]) for each in facts["Mounts"] if each["Destination"] == "/slot"] == [("/slot", False)]
    assert image.endswith(json.loads(engine.run("inspect", "--format", "{{json .RepoDigests}}", facts["Image"]))[0].split("@")[1])
    assert boxed.runs("digits", v1) == 1


@pytest.fixture
def foreign(engine: DockerEngine, image: str) -> Iterator[str]:
    """A container that is not ours."""
    container = engine.run("run", "--detach", "--interactive", "--network", "none", image, "-c", "input()")
    yield container
    engine.run("rm", "--force", container)


def test_an_update_loses_no_request_and_a_version_whose_container_ends_on_trial_is_left(
    cloud: FakeCloud, boxed: Device, engine: DockerEngine, foreign: str, v1: Built, v2: Built
) -> None:
    boxed.score_with_retries(v1.samples, WAIT_S)
    cloud.publish(v2, 2)
    with scoring_without_failure(boxed, v1):
        cloud.set_desired(v2, 2)
        cloud.wait_for(S.RUNNING, timeout_s=WAIT_S)
    assert boxed.runs("digits", v2) == 2
    cloud.set_desired(v1, 1, trial_s=120.0, allow_downgrade=True)
    cloud.wait_for(S.TRIAL, timeout_s=WAIT_S)
    while cloud.last_report().state not in (S.ROLLING_BACK, S.ROLLED_BACK):
        for container in of_slot(engine, 3):
            engine.run("kill", container, check=False)
    report = cloud.wait_for(S.ROLLED_BACK, timeout_s=WAIT_S)
    assert report.cause is FailureCause.DEVICE, "something outside killed it"
    assert boxed.runs("digits", v2) == 3
    assert foreign[:12] in containers(engine)


@pytest.mark.slow
def test_200_requests_a_second_lose_none_in_three_hand_overs(
    cloud: FakeCloud, boxed: Device, v1: Built, v2: Built, tmp_path: Path
) -> None:
    boxed.score_with_retries(v1.samples, WAIT_S)
    body = json.dumps({"data": v1.samples.tolist()}).encode()
    head = f"POST /score HTTP/1.1\r\nHost: device\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    (tmp_path / "request").write_bytes(head.encode() + body)
    port = int(boxed.url.rpartition(":")[2])
    load = LoadRequest(host="127.0.0.1", port=port, requests=(str(tmp_path / "request"),), rate=200, seconds=40, warm_up_s=0.0)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(run_load, load)
        for number, built in enumerate((v2, v1, v2), 2):
            cloud.publish(built, number)
            cloud.set_desired(built, number, trial_s=1.0)
            cloud.wait_for(S.RUNNING, timeout_s=WAIT_S)
        assert not sending.done(), "the load ended before the last hand-over"
        result = sending.result()
    print(result)
    assert result.failures == {}
    assert result.answered == result.sent


def of_slot(engine: DockerEngine, number: int) -> list[str]:
    """Return the containers of a slot."""
    labels = {each: inspected(engine, each)["Config"]["Labels"] for each in containers(engine)}
    return [each for each, found in labels.items() if (found or {}).get("dev.edgewright.slot", "").endswith(f"/{number}")]


def test_a_kill_of_container_driver_or_agent_ends_in_one_container_that_scores(
    boxed: Device, engine: DockerEngine, v1: Built
) -> None:
    boxed.score_with_retries(v1.samples, WAIT_S)
    [first] = of_slot(engine, 1)
    engine.run("kill", first)
    boxed.score_with_retries(v1.samples, WAIT_S)
    [driver] = drivers(boxed)
    driver.kill()
    boxed.score_with_retries(v1.samples, WAIT_S)
    boxed.kill()
    boxed.start()
    boxed.score_with_retries(v1.samples, WAIT_S)
    [last] = of_slot(engine, 1)
    assert last != first
    boxed.stop()
    assert engine.run("ps", "--all", "--quiet") == ""


def test_a_version_with_wrong_outputs_is_refused_without_a_load_outside_of_a_container(
    cloud: FakeCloud, boxed: Device, engine: DockerEngine, v1: Built, wrong_outputs: Built
) -> None:
    boxed.score_with_retries(v1.samples, WAIT_S)
    cloud.publish(wrong_outputs, 3)
    cloud.set_desired(wrong_outputs, 3)
    report = cloud.wait_for(S.REFUSED, timeout_s=WAIT_S)
    assert "its runner ended with exit code 1" in report.reason, "the check outside of a container names the variant instead"
    assert "golden samples must be scored as by the source" in report.reason
    assert report.cause is FailureCause.PACKAGE
    boxed.score(v1.samples)
    assert [len(of_slot(engine, number)) for number in (1, 2)] == [1, 0]


def test_a_killed_engine_stops_no_scoring_and_its_next_start_ends_in_one_container(
    boxed: Device, engine: DockerEngine, v1: Built
) -> None:
    boxed.score_with_retries(v1.samples, WAIT_S)
    engine.daemon.kill()
    with scoring_without_failure(boxed, v1):
        assert boxed.command("status", check=True).returncode == 0
    engine.daemon.start()  # docker ends the containers of a killed engine when it starts; podman does not
    boxed.score_with_retries(v1.samples, WAIT_S)
    ends_at = time.monotonic() + WAIT_S
    while len(of_slot(engine, 1)) != 1:
        assert time.monotonic() < ends_at, boxed.log()
        time.sleep(0.2)
    boxed.score_with_retries(v1.samples, WAIT_S)


@pytest.mark.parametrize(
    ("has_engine", "reason"),
    [
        pytest.param(True, "the image 127.0.0.1:1/none:1 cannot be pulled", id="no image"),
        pytest.param(False, "the container engine does not answer", id="no engine"),
    ],
)
def test_a_container_that_cannot_start_is_said_and_tried_again(
    running: Device, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_engine: bool, reason: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host if has_engine else f"unix://{tmp_path}/none.sock")
    restart_in_containers(running, "127.0.0.1:1/none:1")
    ends_at = time.monotonic() + WAIT_S
    while reason not in running.command("status", check=True).stdout:
        assert time.monotonic() < ends_at, running.log()
        time.sleep(0.2)
    response = running.http.request("POST", f"{running.url}/score", json={"data": []})
    assert (response.status, reason in response.data.decode()) == (503, True)
    assert running.log().count("could not start runner") >= 1


def test_a_memory_limit_that_is_too_small_is_named(
    running: Device, engine: DockerEngine, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    running.stop()
    with (running.state / SETTINGS_FILE).open("a") as settings:
        settings.write(f'[container]\nimage = "{image}"\nmemory_bytes = 12000000\n')
    running.start()
    ends_at = time.monotonic() + WAIT_S
    # Not every podman knows why the kernel killed a container.
    reasons = ["needed more memory than its limit of 12000000 bytes", "its runner was ended by SIGKILL"]
    while not any(reason in running.log() for reason in reasons):
        assert time.monotonic() < ends_at, running.log()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        pytest.param('image = ""', "container.image must be the reference of an image", id="no image"),
        pytest.param('image = "a"\ncpus = 0', "container.cpus must be positive, not 0", id="no processor"),
        pytest.param('image = "a"\ndevices = ["/dev/none"]', "container.devices must be device nodes that exist", id="no node"),
        pytest.param('image = "a"\ndevices = ["/etc/passwd"]', "container.devices must be device nodes", id="no device"),
        pytest.param('image = "a"\nmounts = ["/"]', "'container.mounts' is not a setting", id="unknown"),
    ],
)
def test_settings_of_containers_are_checked(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(f"[container]\n{table}\n")
    with pytest.raises(BadInputError, match=re.escape(message)):
        load_settings(tmp_path)
