"""Devices on the real broker with clients of their own (protocol.md P31, P40, P41, P50, P51, P60, P62, P63)."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cloud.db.database import Database
from cloud.fleet.twins import DesiredSpec, set_desired
from edgewright.contracts import signing, topics, wire
from edgewright.contracts.messages import DesiredState, Presence, TelemetryAck
from edgewright.contracts.oci import INDEX_TYPE, Descriptor
from tests.support.mqtt_devices import WAIT_S, Client, batch, connected, record_once, report
from tests.support.running_cloud import Http, RunningCloud, running

# paho-mqtt leaves a socket whose handshake the broker cut off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
INDEX = Descriptor(mediaType=INDEX_TYPE, digest=wire.digest_of(b"index"), size=5)


def is_let_in(client: Client) -> bool:
    """Tell whether the broker lets a client in; in TLS 1.3 a refused client hears of it only after its own handshake."""
    outcome: queue.Queue[bool] = queue.Queue()
    client.paho.on_connect = lambda _client, _data, _flags, code, _properties: outcome.put(code.value == 0)
    client.paho.on_disconnect = lambda *_arguments: outcome.put(False)
    client.paho.on_connect_fail = lambda *_arguments: outcome.put(False)
    client.paho.connect_async(*client.address)
    client.paho.loop_start()
    let_in = outcome.get(timeout=WAIT_S)
    client.paho.disconnect()
    client.paho.loop_stop()
    return let_in


@pytest.fixture(scope="module")
def cloud(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud with a broker of its own."""
    require("mosquitto")
    with running(tmp_path_factory.mktemp("cloud") / "state") as started:
        yield started


@pytest.fixture(scope="module")
def database(cloud: RunningCloud) -> Iterator[Database]:
    """The cloud's database, as another process of it sees it."""
    opened = Database.open(f"sqlite:///{cloud.state / 'cloud.db'}")
    yield opened
    opened.close()


def want(cloud: RunningCloud, database: Database, device: str) -> DesiredState:
    """Want something of a device, as the rollout engine does."""
    key = signing.load_private_key(cloud.state / "cloud.key")
    with database.transaction() as connection:
        return set_desired(connection, key, device, DesiredSpec(model="digits", version=1, index=INDEX))


def test_p13_enrolment_tells_where_the_broker_is(cloud: RunningCloud, tmp_path: Path) -> None:
    broker = cloud.enrol("told", tmp_path).enrolment["broker"]
    assert (broker["host"], broker["port"]) == cloud.broker


def test_p31_desired_state_arrives_signed_and_is_there_again_at_the_next_connection(
    cloud: RunningCloud, database: Database, tmp_path: Path
) -> None:
    member = cloud.enrol("wanted", tmp_path)
    trusted = signing.TrustedKeys.from_pem([member.enrolment["cloud_key_pem"]])
    with connected(cloud, member) as client:
        client.subscribe(topics.topic("wanted", topics.DESIRED))
        desired = want(cloud, database, "wanted")
        topic, envelope = client.receive()
    assert topic == "edgewright/v1/default/wanted/d/desired"
    assert wire.decode(trusted.verify(envelope, signing.DESIRED_TYPE), DesiredState, what="desired") == desired
    with connected(cloud, member) as client:
        client.subscribe(topics.topic("wanted", topics.DESIRED))
        assert client.receive() == (topic, envelope)


def test_p40_a_report_reaches_the_twin(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    with connected(cloud, cloud.enrol("reporter", tmp_path)) as client:
        client.publish(topics.topic("reporter", topics.REPORTED), report("reporter", 1), retain=True)
        record = record_once(operator, "reporter", lambda record: record["reported"] is not None)
    assert (record["reported"]["reason"], record["online"]) == ("all is well", True)


def test_p50_telemetry_is_acknowledged_when_it_is_stored_and_p51_stored_once(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    with connected(cloud, cloud.enrol("measuring", tmp_path)) as client:
        client.subscribe(topics.topic("measuring", topics.TELEMETRY_ACK))
        for sent in (batch("measuring", 1, 2), batch("measuring", 1, 2), batch("measuring", 2, 3)):
            client.publish(topics.topic("measuring", topics.TELEMETRY), sent)
        acknowledged = [wire.decode(client.receive()[1], TelemetryAck, what="ack").sequence for _ in range(3)]
    assert acknowledged == [2, 2, 3]
    stored = operator.get("/v1/telemetry?device=measuring").json()
    assert [each["sequence"] for each in stored] == [1, 2, 3]
    assert operator.get("/v1/devices/measuring").json()["telemetry_count"] == 3


def test_p60_a_device_cannot_hear_another_devices_desired_state(cloud: RunningCloud, database: Database, tmp_path: Path) -> None:
    victim, spy = cloud.enrol("victim", tmp_path), cloud.enrol("spy", tmp_path)
    want(cloud, database, victim.device)
    with connected(cloud, victim) as arrived, connected(cloud, spy) as client:
        client.subscribe(topics.topic("victim", topics.DESIRED))
        client.subscribe("edgewright/v1/#")
        arrived.subscribe(topics.topic("victim", topics.DESIRED))
        arrived.receive()  # what the victim has heard, the spy would have heard before its own message below
        client.publish(topics.topic("spy", "u/echo"), b"mine")
        assert client.receive() == ("edgewright/v1/default/spy/u/echo", b"mine")


def test_p60_what_a_device_says_under_another_name_reaches_nobody(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    cloud.enrol("honest", tmp_path)
    with connected(cloud, cloud.enrol("impostor", tmp_path)) as client:
        client.publish(topics.topic("honest", topics.REPORTED), report("honest", 1, "forged"))
        client.publish(topics.topic("impostor", topics.REPORTED), report("impostor", 1))
        record_once(operator, "impostor", lambda record: record["reported"] is not None)
    assert operator.get("/v1/devices/honest").json()["reported"] is None


def test_a_body_that_names_another_device_than_its_topic_changes_nothing(
    cloud: RunningCloud, operator: Http, tmp_path: Path
) -> None:
    cloud.enrol("named", tmp_path)
    with connected(cloud, cloud.enrol("naming", tmp_path)) as client:
        client.publish(topics.topic("naming", topics.REPORTED), report("named", 1, "forged"))
        client.publish(topics.topic("naming", topics.REPORTED), b"\xff no report")
        client.publish(topics.topic("naming", topics.REPORTED), report("naming", 1))
        record_once(operator, "naming", lambda record: record["reported"] is not None)
    assert operator.get("/v1/devices/named").json()["reported"] is None


def test_p60_the_client_id_is_the_certificates_name_whatever_the_client_says(cloud: RunningCloud, tmp_path: Path) -> None:
    first, second = cloud.enrol("first", tmp_path), cloud.enrol("second", tmp_path)
    with connected(cloud, first) as bystander:
        thief = Client(cloud, second.certificate, "first")
        thief.paho.connect(*thief.address)
        thief.paho.loop_start()
        assert thief.accepted.get(timeout=WAIT_S) == 0
        bystander.subscribe(topics.topic("first", "d/any"))  # still connected: another's id takes nothing over
        thief.paho.disconnect()
        thief.paho.loop_stop()
        assert not bystander.disconnected.is_set()


def test_p60_without_a_certificate_nobody_gets_in(cloud: RunningCloud) -> None:
    assert not is_let_in(Client(cloud, None, "nobody"))


def test_p62_the_last_will_says_that_a_device_has_gone(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    member = cloud.enrol("mortal", tmp_path)
    with connected(cloud, member, will=Presence(online=False)) as client:
        client.publish(topics.topic("mortal", topics.PRESENCE), Presence(online=True), retain=True)
        record_once(operator, "mortal", lambda record: bool(record["online"]))
        sock = client.paho.socket()
        sock.shutdown(2)  # the cable is cut: no goodbye
        record_once(operator, "mortal", lambda record: not record["online"])


def test_p63_a_revoked_device_loses_its_connection_and_gets_no_other(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    member = cloud.enrol("fired", tmp_path)
    with connected(cloud, member) as client:
        assert operator.post("/v1/devices/fired/revoke").status == 200
        assert client.disconnected.wait(WAIT_S)
        client.paho.loop_stop()
    assert not is_let_in(Client(cloud, member.certificate, "fired"))


def test_p63_a_revoked_name_that_was_enrolled_again_hears_what_is_wanted_of_it(
    cloud: RunningCloud, database: Database, operator: Http, tmp_path: Path
) -> None:
    cloud.enrol("rehired", tmp_path)
    want(cloud, database, "rehired")
    operator.post("/v1/devices/rehired/revoke")
    with connected(cloud, cloud.enrol("rehired", tmp_path, device="rehired")) as client:
        client.subscribe(topics.topic("rehired", topics.DESIRED))
        assert client.receive()[1] != b""


def test_a_broker_that_dies_is_started_again_and_hears_the_devices(cloud: RunningCloud, operator: Http, tmp_path: Path) -> None:
    member = cloud.enrol("patient", tmp_path)
    old = int((cloud.state / "broker" / "mosquitto.pid").read_text())
    os.kill(old, signal.SIGKILL)
    client = Client(cloud, member.certificate, "patient")
    client.paho.reconnect_delay_set(1, 1)
    client.paho.connect_async(*client.address)
    client.paho.loop_start()
    assert client.accepted.get(timeout=WAIT_S) == 0
    # The cloud's own connection may come back after ours; what is retained waits for it.
    client.publish(topics.topic("patient", topics.REPORTED), report("patient", 1), retain=True)
    record_once(operator, "patient", lambda record: record["reported"] is not None)
    client.paho.disconnect()
    client.paho.loop_stop()
    assert not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE
