"""`edgewright iotedge run` for a device of a running hub: its twin, a module with Azure's own client, kills and restarts."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.iotedge.test_run import containers, remove_all
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.edge_modules import agent, load_image, manifest, module, python_module
from tests.support.running_hub import RunningHub, running_hub

WAIT_S = 120.0
SENDER = """
from azure.iot.device import IoTHubModuleClient
import time
client = IoTHubModuleClient.create_from_edge_environment()
client.connect()
client.patch_twin_reported_properties({"greeting": client.get_twin()["desired"]["greeting"]})
client.send_message_to_output("from the module", "out")
client.shutdown()
"""


@pytest.fixture(scope="module")
def engine(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    with docker_engine(require) as engine:
        load_image(engine, tmp_path_factory.mktemp("image"))
        yield engine


@dataclass
class Gateway:
    """An IoT Edge device of a hub, and the runtime that plays its agent."""

    hub: RunningHub
    engine: DockerEngine
    folder: Path
    key: str = ""
    process: subprocess.Popen[bytes] | None = None
    lines: list[str] = field(default_factory=list)

    def create(self) -> None:
        request = {"deviceId": "gateway", "capabilities": {"iotEdge": True}}
        client = self.hub.client()
        device = client.call("PUT", "/devices/gateway", request)
        self.key = device["authentication"]["symmetricKey"]["primaryKey"]
        port = client.address.https_port
        text = client.connection_string(device)
        (self.folder / "device.txt").write_text(text.replace(";DeviceId", f":{port};DeviceId"))

    def start(self) -> None:
        words = ["iotedge", "run", "--connection-string", self.folder / "device.txt", "--ca", self.hub.ca]
        words += ["--state", self.folder / "state", "--cool-off", "200ms"]
        environment = {**os.environ, "DOCKER_HOST": self.engine.host}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgewright", *map(str, words)], stdout=log, stderr=log, env=environment
            )

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=WAIT_S)
        self.process = None
        return code

    def push(self, desired: dict[str, Any], **twins: dict[str, Any]) -> None:
        content = manifest(desired)
        content["modulesContent"] |= {name: {"properties.desired": twin} for name, twin in twins.items()}
        self.hub.client().call("POST", "/devices/gateway/applyConfigurationContent", content)

    def reported(self) -> dict[str, Any]:
        found: dict[str, Any] = self.hub.client().call("GET", "/twins/gateway/modules/$edgeAgent")["properties"]["reported"]
        return found

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the reported properties as soon as they fulfil a condition."""
        ends_at = time.monotonic() + WAIT_S
        while not condition(reported := self.reported()):
            assert time.monotonic() < ends_at, f"{json.dumps(reported, indent=1)}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.1)
        return reported

    def wait_for_code(self, code: int) -> dict[str, Any]:
        return self.wait_for(lambda reported: reported.get("lastDesiredStatus", {}).get("code") == code)


@pytest.fixture
def gateway(engine: DockerEngine, tmp_path: Path) -> Iterator[Gateway]:
    with running_hub(tmp_path) as hub:
        gateway = Gateway(hub, engine, tmp_path)
        gateway.create()
        yield gateway
        if gateway.process is not None:
            gateway.end(signal.SIGKILL)
    remove_all(engine)


def test_a_device_follows_its_deployment_and_a_module_connects_with_the_client_of_azure(
    gateway: Gateway, clients_python: Path, engine: DockerEngine
) -> None:
    gateway.start()
    gateway.wait_for_code(417)
    sender = python_module(clients_python, SENDER)
    gateway.push(agent(sender={**sender, "restartPolicy": "on-failure"}, other=module()), sender={"greeting": "good day"})
    reported = gateway.wait_for(lambda each: each.get("modules", {}).get("sender", {}).get("runtimeStatus") == "stopped")
    assert reported["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert reported["lastDesiredVersion"] == 2
    assert (reported["modules"]["sender"]["exitCode"], reported["modules"]["sender"]["restartCount"]) == (0, 0)
    assert reported["modules"]["other"]["runtimeStatus"] == "running"
    events = gateway.hub.client().call("GET", "/messages/events", query={"after": 0})["events"]
    sent = [(each["identity"], base64.b64decode(each["body"]), each["properties"]["$.on"]) for each in events]
    assert sent == [("gateway/sender", b"from the module", "out")]
    twin = gateway.hub.client().call("GET", "/twins/gateway/modules/sender")
    assert twin["properties"]["reported"]["greeting"] == "good day"
    variables = containers(engine)["sender"]["Config"]["Env"]
    assert not [each for each in variables if "Key" in each or gateway.key in each]

    before = containers(engine)["other"]["Id"]
    gateway.push({**agent(), "schemaVersion": "2.0"})
    reported = gateway.wait_for_code(412)
    assert reported["lastDesiredStatus"]["description"] == "schemaVersion must be 1.0 or 1.1, not '2.0'"
    gateway.push(agent(other=module(status="paused")))
    assert gateway.wait_for_code(400)["modules"]["other"]["runtimeStatus"] == "running"
    gateway.push(agent(other=module()))
    assert set(gateway.wait_for_code(200)["modules"]) == {"other"}
    assert {name: each["Id"] for name, each in containers(engine).items()} == {"other": before}


def test_modules_survive_a_kill_of_the_runtime_and_of_the_hub_and_restart_after_failures(
    gateway: Gateway, engine: DockerEngine
) -> None:
    failing = module("exit 3", restartPolicy="on-failure")
    gateway.push(agent(failing=failing, once=module("exit 4", restartPolicy="never"), steady=module()))
    gateway.start()
    reported = gateway.wait_for(lambda each: each.get("modules", {}).get("failing", {}).get("restartCount", 0) >= 2)
    assert reported["modules"]["failing"]["exitCode"] == 3
    assert (reported["modules"]["once"]["runtimeStatus"], reported["modules"]["once"]["restartCount"]) == ("failed", 0)
    before = containers(engine)["steady"]["Id"]
    assert gateway.end(signal.SIGKILL) == -signal.SIGKILL
    gateway.hub.kill()
    gateway.start()
    engine.run("kill", "steady")
    while not containers(engine)["steady"]["State"]["Running"]:
        assert gateway.process is not None
        assert gateway.process.poll() is None, gateway.log.read_text()
        time.sleep(0.1)
    gateway.hub.start()
    count = reported["modules"]["failing"]["restartCount"]
    after = gateway.wait_for(lambda each: each["modules"]["steady"]["restartCount"] == 1)
    assert containers(engine)["steady"]["Id"] == before
    assert after["modules"]["failing"]["restartCount"] >= count
    assert gateway.end(signal.SIGTERM) == 0
    stopped = gateway.reported()
    assert stopped["lastDesiredStatus"] == {"code": 406, "description": "Agent is not running"}
    assert not containers(engine)["steady"]["State"]["Running"]
    gateway.start()
    again = gateway.wait_for_code(200)
    assert again["modules"]["steady"]["runtimeStatus"] == "running"
    assert containers(engine)["steady"]["Id"] == before


def test_a_device_that_the_hub_does_not_accept_is_refused_without_its_key(gateway: Gateway, tmp_path: Path) -> None:
    wrong = base64.b64encode(b"w" * 32).decode()
    text = (tmp_path / "device.txt").read_text()
    (tmp_path / "device.txt").write_text(text.replace(gateway.key, wrong))
    gateway.start()
    assert gateway.process is not None
    assert gateway.process.wait(WAIT_S) == 2
    log = gateway.log.read_text()
    assert "refuses with HTTP status 401" in log
    assert len(log.splitlines()) == 1
    assert wrong not in log
    gateway.process = None
