"""Devices on the real MQTT broker (protocol.md P31, P40, P41, P50, P51, P60, P62, P63)."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cloud.db.database import Database
from cloud.fleet.desired import DesiredSpec
from cloud.fleet.twins import set_desired
from edgewright.contracts import signing, wire
from edgewright.contracts.connection import topics
from edgewright.contracts.messages import DesiredState, Presence, TelemetryAck
from edgewright.contracts.oci import INDEX_TYPE, Descriptor
from tests.support.mqtt_devices import WAIT_S, Client, batch, connected, record_once, report
from tests.support.running_cloud import Http, RunningCloud, running

# paho-mqtt does not close a socket whose handshake failed.
pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
INDEX = Descriptor(mediaType=INDEX_TYPE, digest=wire.digest_of(b"index"), size=5)


def is_accepted(client: Client) -> bool:
    """Return True if the broker accepts a client; in TLS 1.3 the refusal arrives after the client's handshake."""
    outcome: queue.Queue[bool] = queue.Queue()
    client.paho.on_connect = lambda _client, _data, _flags, code, _properties: outcome.put(code.value == 0)
    client.paho.on_disconnect = lambda *_arguments: outcome.put(False)
    client.paho.on_connect_fail = lambda *_arguments: outcome.put(False)
    client.paho.connect_async(*client.address)
    client.paho.loop_start()
    accepted = outcome.get(timeout=WAIT_S)
    client.paho.disconnect()
    client.paho.loop_stop()
    return accepted


@pytest.fixture(scope="module")
def cloud(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud with the built-in broker."""
    require("mosquitto")
    with running(tmp_path_factory.mktemp("cloud") / "state") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def database(cloud: RunningCloud) -> Iterator[Database]:
    """Open the cloud's database as another process."""
    database = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    yield database
    database.close()


def set_desired_state(cloud: RunningCloud, database: Database, device: str) -> DesiredState:
    """Set a desired state as the rollout engine does."""
    key = signing.load_private_key(cloud.state / "cloud.key")
    with database.transaction() as connection:
        return set_desired(connection, key, device, DesiredSpec(model="digits", version=1, index=INDEX))


def test_p13_the_enrolment_response_contains_the_address_of_the_broker(cloud: RunningCloud, tmp_path: Path) -> None:
    broker = cloud.enrol("addressed", tmp_path).enrolment["broker"]
    assert (broker["host"], broker["port"]) == cloud.broker


def test_p31_desired_state_is_signed_and_retained_for_the_next_connection(
    cloud: RunningCloud, database: Database, tmp_path: Path
) -> None:
    device = cloud.enrol("follower", tmp_path)
    trusted = signing.TrustedKeys.from_pem([device.enrolment["cloud_key_pem"]])
    with connected(cloud, device) as client:
        client.subscribe(topics.topic("follower", topics.DESIRED))
        desired = set_desired_state(cloud, database, "follower")
        topic, envelope = client.receive()
    assert topic == "edgewright/v1/default/follower/d/desired"
    assert wire.decode(trusted.verify(envelope, signing.DESIRED_TYPE), DesiredState, what="desired") == desired
    with connected(cloud, device) as client:
        client.subscribe(topics.topic("follower", topics.DESIRED))
        assert client.receive() == (topic, envelope)


def test_p40_a_report_reaches_the_twin(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    with connected(cloud, cloud.enrol("reporter", tmp_path)) as client:
        client.publish(topics.topic("reporter", topics.REPORTED), report("reporter", 1), retain=True)
        record = record_once(operator, "reporter", lambda record: record["reported"] is not None)
    assert (record["reported"]["reason"], record["online"]) == ("all is well", True)


def test_two_agents_with_one_identity_are_found_by_their_presence(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    with connected(cloud, cloud.enrol("copied", tmp_path)) as client:
        for boot_id in ("original", "copy", "original"):
            presence = Presence(online=True, boot_id=boot_id)
            client.publish(topics.topic("copied", topics.PRESENCE), wire.encode(presence), retain=True)
        record_once(operator, "copied", lambda record: record["identity_shared_at"] is not None)


def test_p50_telemetry_is_acknowledged_and_p51_stored_once(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    with connected(cloud, cloud.enrol("measuring", tmp_path)) as client:
        client.subscribe(topics.topic("measuring", topics.TELEMETRY_ACK))
        for sent in (batch("measuring", 1, 2), batch("measuring", 1, 2), batch("measuring", 2, 3)):
            client.publish(topics.topic("measuring", topics.TELEMETRY), sent)
        acknowledged = [wire.decode(client.receive()[1], TelemetryAck, what="ack").sequence for _ in range(3)]
    assert acknowledged == [2, 2, 3]
    stored = operator.get("/v1/telemetry?device=measuring").json()
    assert [each["sequence"] for each in stored] == [1, 2, 3]
    assert operator.get("/v1/devices/measuring").json()["telemetry_count"] == 3


def test_p60_a_device_cannot_receive_the_desired_state_of_another(
    cloud: RunningCloud, database: Database, tmp_path: Path
) -> None:
    victim, spy = cloud.enrol("victim", tmp_path), cloud.enrol("spy", tmp_path)
    set_desired_state(cloud, database, victim.device)
    with connected(cloud, victim) as victim_client, connected(cloud, spy) as client:
        client.subscribe(topics.topic("victim", topics.DESIRED))
        client.subscribe("edgewright/v1/#")
        victim_client.subscribe(topics.topic("victim", topics.DESIRED))
        victim_client.receive()  # the spy would receive it before its own message below
        client.publish(topics.topic("spy", "u/echo"), b"mine")
        assert client.receive() == ("edgewright/v1/default/spy/u/echo", b"mine")


def test_p60_a_message_on_the_topic_of_another_device_is_dropped(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    cloud.enrol("honest", tmp_path)
    with connected(cloud, cloud.enrol("impostor", tmp_path)) as client:
        client.publish(topics.topic("honest", topics.REPORTED), report("honest", 1, "forged"))
        client.publish(topics.topic("impostor", topics.REPORTED), report("impostor", 1))
        record_once(operator, "impostor", lambda record: record["reported"] is not None)
    assert operator.get("/v1/devices/honest").json()["reported"] is None


def test_a_body_that_names_another_device_than_its_topic_is_refused(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    cloud.enrol("named", tmp_path)
    with connected(cloud, cloud.enrol("naming", tmp_path)) as client:
        client.publish(topics.topic("naming", topics.REPORTED), report("named", 1, "forged"))
        client.publish(topics.topic("naming", topics.REPORTED), b"\xff not a report")
        client.publish(topics.topic("naming", topics.REPORTED), report("naming", 1))
        record_once(operator, "naming", lambda record: record["reported"] is not None)
    assert operator.get("/v1/devices/named").json()["reported"] is None


def test_p60_the_client_id_is_the_common_name_of_the_certificate(cloud: RunningCloud, tmp_path: Path) -> None:
    first, second = cloud.enrol("first", tmp_path), cloud.enrol("second", tmp_path)
    with connected(cloud, first) as bystander:
        thief = Client(cloud, second.certificate, "first")
        thief.paho.connect(*thief.address)
        thief.paho.loop_start()
        assert thief.accepted.get(timeout=WAIT_S) == 0
        bystander.subscribe(topics.topic("first", "d/any"))  # still connected: a forged client id does not take over the session
        thief.paho.disconnect()
        thief.paho.loop_stop()
        assert not bystander.disconnected.is_set()


def test_p60_a_client_without_a_certificate_is_refused(cloud: RunningCloud) -> None:
    assert not is_accepted(Client(cloud, None, "anonymous"))


def test_p62_the_last_will_marks_a_device_as_offline(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("unplugged", tmp_path)
    with connected(cloud, device, will=Presence(online=False)) as client:
        client.publish(topics.topic("unplugged", topics.PRESENCE), Presence(online=True), retain=True)
        record_once(operator, "unplugged", lambda record: bool(record["online"]))
        sock = client.paho.socket()
        sock.shutdown(2)  # a cut cable: no DISCONNECT packet
        record_once(operator, "unplugged", lambda record: not record["online"])


def test_p63_a_revoked_device_is_disconnected_and_refused(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("dismissed", tmp_path)
    with connected(cloud, device) as client:
        assert operator.post("/v1/devices/dismissed/revoke").status == 200
        assert client.disconnected.wait(WAIT_S)
        client.paho.loop_stop()
    assert not is_accepted(Client(cloud, device.certificate, "dismissed"))


def test_p63_a_device_enrolled_again_receives_its_desired_state(
    cloud: RunningCloud, database: Database, operator: Http, tmp_path: Path
) -> None:
    cloud.enrol("rehired", tmp_path)
    set_desired_state(cloud, database, "rehired")
    operator.post("/v1/devices/rehired/revoke")
    with connected(cloud, cloud.enrol("rehired", tmp_path, device="rehired")) as client:
        client.subscribe(topics.topic("rehired", topics.DESIRED))
        assert client.receive()[1] != b""


def test_a_killed_broker_is_restarted_and_devices_reconnect(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    device = cloud.enrol("patient", tmp_path)
    old = int((cloud.state / "broker" / "mosquitto.pid").read_text())
    os.kill(old, signal.SIGKILL)
    client = Client(cloud, device.certificate, "patient")
    client.paho.reconnect_delay_set(1, 1)
    client.paho.connect_async(*client.address)
    client.paho.loop_start()
    assert client.accepted.get(timeout=WAIT_S) == 0
    # The cloud may reconnect after this client; the retained message waits for it.
    client.publish(topics.topic("patient", topics.REPORTED), report("patient", 1), retain=True)
    record_once(operator, "patient", lambda record: record["reported"] is not None)
    client.paho.disconnect()
    client.paho.loop_stop()
    assert not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE
