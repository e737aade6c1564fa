"""An agent whose only connection for messages is a hub, with the real cloud, which writes into the hub's twins."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.db.database import Database
from cloud.messaging.iothub import open_bridge
from edge_agent.settings import SETTINGS_FILE
from edgewright.contracts.iothub.twin_messages import ENVELOPE, join
from edgewright.errors import BadInputError
from tests.edge_agent.conftest import QUICK
from tests.support.device_packages import Built
from tests.support.real_fleet import NAME, Fleet, fleet, runs
from tests.support.running_hub import RunningHub, running_hub

WAIT_S = 120.0
SERVICE = f"HostName=hub.example;SharedAccessKeyName=service;SharedAccessKey={'A' * 43}="


@dataclass
class HubFleet:
    """A hub, and a fleet whose device is a device of the hub."""

    hub: RunningHub
    fleet: Fleet
    connection_string: str

    def twin(self) -> Any:
        return self.hub.client().call("GET", f"/twins/{NAME}")["properties"]

    def method(self, name: str, payload: object = None) -> Any:
        return self.hub.client().call("POST", f"/twins/{NAME}/methods", {"methodName": name, "payload": payload})

    def start_agent(self) -> None:
        settings = f'{QUICK}[iothub]\nconnection_string = "{self.connection_string}"\nca_file = "{self.hub.ca}"\nping_s = 1.0\n'
        (self.fleet.device.state / SETTINGS_FILE).write_text(settings)
        self.fleet.device.start("--transport", "iothub")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFleet]:
    folder = tmp_path_factory.mktemp("hub-fleet")
    with ExitStack() as stack:
        hub = stack.enter_context(running_hub(folder))
        client = hub.client()
        device = client.call("PUT", f"/devices/{NAME}", {})
        owner = folder / "hub.connection"
        owner.write_text(client.service_connection_string())
        running = stack.enter_context(fleet(folder, "--no-broker", "--iothub", str(owner), "--iothub-ca", str(hub.ca)))
        yield HubFleet(hub, running, client.connection_string(device))


def test_a_device_gets_its_desired_state_from_the_twin_scores_and_reports(here: HubFleet, v1: Built) -> None:
    here.fleet.publish(v1, 1)
    here.fleet.set_desired(v1, 1)
    here.start_agent()
    record = here.fleet.record_when(runs(1))
    assert record["online"] is True
    assert np.allclose(here.fleet.device.score_with_retries(v1.samples), v1.answers, rtol=1e-4, atol=1e-2)
    assert here.fleet.device.explain()["connection"] == "online over iothub"
    reported = here.twin()["reported"]["edgewright"]
    assert (reported["state"], reported["version"], reported["desired_number"]) == ("running", 1, 1)


def test_a_newer_desired_state_reaches_the_running_agent_as_a_patch(here: HubFleet, v2: Built) -> None:
    here.fleet.publish(v2, 2)
    here.fleet.set_desired(v2, 2)
    here.fleet.record_when(runs(2))
    assert np.allclose(here.fleet.device.score_with_retries(v2.samples), v2.answers, rtol=1e-4, atol=1e-2)


def test_a_desired_state_that_the_hub_changed_is_rejected(here: HubFleet) -> None:
    pieces = here.twin()["desired"]["edgewright"]["envelope"]
    envelope = json.loads("".join(text for number, text in sorted(pieces.items()) if not number.startswith("$")))
    envelope["payload"] = envelope["payload"][:-8] + "AAAAAAA="
    message = json.dumps(envelope).encode()
    headers = {"iothub-to": f"/devices/{NAME}/messages/devicebound", "iothub-app-edgewright": "desired"}
    here.hub.client().call("POST", "/messages/devicebound", message, headers=headers)
    here.fleet.device.wait_for_rejected_state("signature", timeout_s=WAIT_S)
    assert here.method("status")["payload"]["running"]["version"] == 2


def test_telemetry_arrives_with_properties_and_is_deleted_on_the_device(here: HubFleet) -> None:
    events = here.hub.client().call("GET", "/messages/events", query={"after": 0, "wait": 50})["events"]
    first = events[0]
    assert (first["identity"], first["properties"]["edgewright"], first["properties"]["$.ct"]) == (
        NAME,
        "telemetry",
        "application/json",
    )
    assert first["properties"]["first"] == "1"
    following = here.hub.client().call("GET", "/messages/events", query={"after": first["number"], "wait": 50})["events"][0]
    assert int(following["properties"]["first"]) == int(first["properties"]["last"]) + 1


def test_azures_service_library_calls_the_agent_and_reads_its_report(here: HubFleet, clients_python: Path) -> None:
    results = here.hub.call(clients_python, "agent", device=NAME)["agent"]
    status, state = results["method"]
    assert (status, state["device"], state["state"]) == (200, NAME, "running")
    assert (results["reported"]["state"], results["reported"]["version"]) == ("running", 2)


def test_a_cloud_writes_into_the_twins_of_modules_if_it_is_told_their_name(here: HubFleet) -> None:
    client = here.hub.client()
    client.call("PUT", f"/devices/{NAME}/modules/agent", {})
    file = here.fleet.cloud.state.parent / "hub.connection"
    database = Database.open(f"sqlite:///{here.fleet.cloud.state / 'cloud.db'}")
    try:
        open_bridge(database, file, here.hub.ca, "agent").synchronise()
    finally:
        database.close()
    written = client.call("GET", f"/twins/{NAME}/modules/agent")["properties"]["desired"]
    assert join(written, ENVELOPE) == join(here.twin()["desired"], ENVELOPE)
    assert join(written, ENVELOPE) is not None


@pytest.mark.parametrize(
    ("text", "authority", "message"),
    [
        pytest.param(None, None, "must be a file with the connection string of a hub", id="no file"),
        pytest.param("nonsense", None, "the connection string of a policy of the hub must have HostName", id="nonsense"),
        pytest.param(SERVICE, "missing.pem", "missing.pem must be a file of certificates in PEM", id="authority"),
    ],
)
def test_a_cloud_refuses_an_unusable_connection_string(
    tmp_path: Path, text: str | None, authority: str | None, message: str
) -> None:
    file = tmp_path / "hub.connection"
    if text is not None:
        file.write_text(text)
    database = Database.open(f"sqlite:///{tmp_path / 'cloud.db'}")
    try:
        with pytest.raises(BadInputError) as error:
            open_bridge(database, file, None if authority is None else tmp_path / authority)
    finally:
        database.close()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        pytest.param("status", 200, {"device", "running", "workloads"}, id="status"),
        pytest.param("report", 200, {"requested"}, id="report"),
        pytest.param("format", 404, {"error"}, id="unknown"),
    ],
)
def test_a_direct_method_is_a_command(here: HubFleet, method: str, status: int, fields: set[str]) -> None:
    answer = here.method(method)
    assert answer["status"] == status
    assert fields <= set(answer["payload"])


def test_after_the_hub_was_killed_the_device_returns_and_gets_what_it_missed(here: HubFleet, v1: Built) -> None:
    here.hub.kill()
    wait_until(lambda: here.fleet.device.explain()["connection"] != "online over iothub", here.fleet.device.log)
    here.fleet.publish(v1, 3)
    here.fleet.set_desired(v1, 3)
    here.hub.start()
    here.fleet.record_when(runs(3))


def test_a_killed_device_is_offline_as_soon_as_the_hub_notices(here: HubFleet) -> None:
    here.fleet.device.kill()
    here.fleet.record_when(lambda record: record["online"] is False)
    here.start_agent()
    here.fleet.record_when(lambda record: record["online"] is True)


def test_an_answering_hub_that_hangs_is_noticed_by_a_ping(here: HubFleet) -> None:
    assert here.hub.process is not None
    wait_until(lambda: here.fleet.device.explain()["connection"] == "online over iothub", here.fleet.device.log)
    before = len(here.fleet.device.log())
    os.kill(here.hub.process.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "the hub does not answer a ping" in here.fleet.device.log()[before:], here.fleet.device.log)
    finally:
        os.kill(here.hub.process.pid, signal.SIGCONT)
    wait_until(lambda: here.fleet.device.explain()["connection"] == "online over iothub", here.fleet.device.log)


def test_a_replaced_key_is_one_clear_line(here: HubFleet) -> None:
    client = here.hub.client()
    device = client.call("GET", f"/devices/{NAME}")
    keys = {"primaryKey": "A" * 43 + "=", "secondaryKey": "B" * 43 + "="}
    device["authentication"]["symmetricKey"] = keys
    client.call("PUT", f"/devices/{NAME}", device, headers={"If-Match": "*"})
    expected = f"the hub {here.hub.host} does not accept the credential of {NAME}: check [iothub] in agent.toml"
    wait_until(lambda: expected in here.fleet.device.explain()["connection"], here.fleet.device.log)


def wait_until(holds: Callable[[], bool], context: Callable[[], str]) -> None:
    """Poll a condition that depends on another program, which sends no notification."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, context()
        time.sleep(0.2)
