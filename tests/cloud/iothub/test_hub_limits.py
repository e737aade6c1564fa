"""Clients that IoT Hub would disconnect, and the command line of a hub."""

from __future__ import annotations

import queue
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from edgewright.contracts.iothub import sas
from tests.support.running_hub import RunningHub, running_hub

WAIT_S = 60


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub"), "--plain-mqtt-port", "0", "--max-connections", "3") as running:
        yield running


class Client:
    """A paho client of one device with its own token."""

    def __init__(self, hub: RunningHub, device: str, *, valid_s: int = 600, plain: bool = False) -> None:
        key = hub.client().call("GET", f"/devices/{device}")["authentication"]["symmetricKey"]["primaryKey"]
        self.events: queue.Queue[str] = queue.Queue()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, device, clean_session=True, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        token = sas.create(f"{hub.host}/devices/{device}", key, int(time.time()) + valid_s)
        self.client.username_pw_set(f"{hub.host}/{device}/?api-version=2021-04-12", token)
        self.client.on_connect = lambda _c, _d, _f, code, _p: self.events.put(f"connected: {code}")
        self.client.on_publish = lambda *_: self.events.put("stored")
        self.client.on_disconnect = lambda *_: self.events.put("disconnected")
        if not plain:
            self.client.tls_set_context(ssl.create_default_context(cafile=str(hub.ca)))
        self.client.connect(hub.host, hub.started["plain_mqtt_port" if plain else "mqtt_port"])
        self.client.loop_start()

    def next(self) -> str:
        return self.events.get(timeout=WAIT_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def device(hub: RunningHub, request: pytest.FixtureRequest) -> str:
    name = f"d{abs(hash(request.node.name)) % 10**9}"
    hub.client().call("PUT", f"/devices/{name}", {})
    return name


@pytest.fixture
def client(hub: RunningHub, device: str) -> Iterator[Client]:
    made = Client(hub, device)
    assert made.next() == "connected: Success"
    yield made
    made.close()


def test_a_message_with_qos_2_ends_the_connection(client: Client, device: str) -> None:
    client.client.publish(f"devices/{device}/messages/events/", b"x", qos=2)
    assert client.next() == "disconnected"


def test_a_message_on_a_topic_of_another_device_ends_the_connection(client: Client) -> None:
    client.client.publish("devices/other/messages/events/", b"x", qos=1)
    assert client.next() == "disconnected"


def test_a_message_over_256_kib_ends_the_connection_and_one_of_256_kib_is_stored(client: Client, device: str) -> None:
    client.client.publish(f"devices/{device}/messages/events/", bytes(256 << 10), qos=1)
    assert client.next() == "stored"
    client.client.publish(f"devices/{device}/messages/events/", bytes((256 << 10) + 1), qos=1)
    assert client.next() == "disconnected"


def test_a_filter_of_another_device_is_not_granted(client: Client, device: str) -> None:
    granted: queue.Queue[Any] = queue.Queue()
    client.client.on_subscribe = lambda _c, _d, _mid, codes, _p: granted.put([code.value for code in codes])
    client.client.subscribe([("devices/other/messages/devicebound/#", 1), ("#", 1), ("$iothub/methods/POST/#", 2)])
    assert granted.get(timeout=WAIT_S) == [0x80, 0x80, 1]


def test_a_second_client_takes_over_and_a_shared_identity_is_reported(hub: RunningHub, device: str) -> None:
    clients = []
    for _ in range(6):
        clients.append(Client(hub, device))
        assert clients[-1].next() == "connected: Success"
    assert [each.next() for each in clients[:-1]] == ["disconnected"] * 5
    assert device in hub.client().call("GET", "/statistics/service")["sharedIdentities"]
    for each in clients:
        each.close()


def test_a_connection_ends_when_its_token_expires(hub: RunningHub, device: str) -> None:
    client = Client(hub, device, valid_s=3)
    assert client.next() in (
        "connected: Success",
        "connected: Not authorized",
    )  # not, if the machine took longer than the token is valid
    assert client.next() == "disconnected"
    client.close()


def test_connections_over_the_limit_are_refused(hub: RunningHub) -> None:
    ends_at = time.monotonic() + WAIT_S
    while hub.client().call("GET", "/statistics/service")["connectedDeviceCount"] and time.monotonic() < ends_at:
        time.sleep(0.02)  # the ends of the connections of other tests
    clients = []
    for number in range(4):
        hub.client().call("PUT", f"/devices/many-{number}", {})
        clients.append(Client(hub, f"many-{number}", plain=True))
    answers = [each.next() for each in clients]
    for each in clients:
        each.close()
    assert answers == ["connected: Success"] * 3 + ["connected: Not authorized"]


def test_a_hub_that_is_stopped_disconnects_its_clients_and_ends_without_an_error(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        hub.client().call("PUT", "/devices/last", {})
        client = Client(hub, "last")
        assert client.next() == "connected: Success"
        assert hub.kill(signal.SIGTERM) == 0
        assert client.next() == "disconnected"
        client.close()
        assert "disconnected client=last reason=the hub stops" in hub.log.read_text()
        assert "Traceback" not in hub.log.read_text()


def test_the_commands_create_change_call_and_delete(hub: RunningHub) -> None:
    text = run(hub, "devices", "create", "cli-1").stdout
    assert text.startswith(f"HostName={hub.host};DeviceId=cli-1;SharedAccessKey=")
    key = text.strip().rpartition("SharedAccessKey=")[2]
    shown = run(hub, "desire", "cli-1", '{"interval": 5}')
    assert shown.stdout == '{"interval": 5, "$version": 2}\n'
    assert key not in run(hub, "devices", "show", "cli-1", "--json").stdout
    assert key not in run(hub, "devices", "rotate", "cli-1").stdout
    run(hub, "devices", "delete", "cli-1")
    missing = run(hub, "devices", "show", "cli-1", code=2)
    assert missing.stderr == "edgewright: the hub has no device cli-1\n"


def test_a_call_of_a_device_that_is_offline_ends_with_one_line(hub: RunningHub, device: str) -> None:
    failed = run(hub, "invoke", device, "blink", code=2)
    assert failed.stderr == f"edgewright: {device} must be connected and serve methods, but it does not\n"


def test_a_port_in_use_and_plain_mqtt_beyond_loopback_end_with_one_line(hub: RunningHub, tmp_path: Path) -> None:
    taken = up(tmp_path, "--host", hub.host)
    assert taken == (
        2,
        f"edgewright: port 8883 of {hub.host} must be free, but another program uses it: stop it, "
        "or give another port with --mqtt-port\n",
    )
    plain = up(tmp_path, "--host", "0.0.0.0", "--plain-mqtt-port", "0")
    assert plain == (
        2,
        "edgewright: --plain-mqtt-port needs a loopback address such as 127.0.0.1 as --host, not 0.0.0.0: omit one\n",
    )


def up(state: Path, *options: str) -> tuple[int, str]:
    """Return the exit code and the error line of a hub that cannot start."""
    command = [sys.executable, "-m", "edgewright", "iothub", "up", "--state", str(state), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S * 2)
    return done.returncode, done.stderr


def run(hub: RunningHub, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command of a hub."""
    command = [sys.executable, "-m", "edgewright", "iothub", *arguments, "--state", str(hub.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S * 2)
    assert done.returncode == code, done.stderr
    return done
