"""The cloud on MQTT: hears every device, sends desired state and acknowledgements, and can end a device's session.

It connects with the certificate `edgewright-cloud`, which may use every topic. Who said something is known from the topic,
which the broker guards; a body that names another device is refused. Work on a message is done in the client's own thread:
while the database is slow, the broker waits, and nothing piles up here.

Desired state is published under a lock that spans reading and sending, so that an older envelope never replaces a newer one.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from cloud.db.database import Database
from cloud.fleet import devices, telemetry, twins
from cloud.state.certificates import CLOUD_NAME, certificate_pem, key_pem, new_key
from cloud.state.directory import StateDirectory
from edgewright.contracts import topics, wire
from edgewright.contracts.messages import BrokerAddress, Presence, ReportedState, TelemetryBatch
from edgewright.errors import EdgewrightError, UnreachableError

_LOG = logging.getLogger("edgewright.cloud.mqtt")
_KEEPALIVE_S = 30
_EXPEL_TIMEOUT_S = 5.0


class MqttLink:
    """One connection to the broker, kept up for as long as the cloud runs."""

    def __init__(
        self, state: StateDirectory, database: Database, address: BrokerAddress, reload_broker: Callable[[], None]
    ) -> None:
        self._state = state
        self._database = database
        self._address = address
        self._reload_broker = reload_broker
        self._publishing = threading.Lock()
        self._client = _new_client(CLOUD_NAME)
        self._client.tls_set_context(_tls(state.ca_file, *state.mqtt_files))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(min_delay=1, max_delay=10)
        self.connected = False
        self._missed = False
        """Something could not be done because the database was away."""

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        self._client.connect_async(self._address.host, self._address.port, keepalive=_KEEPALIVE_S)
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect for good."""
        self._client.disconnect()
        self._client.loop_stop()

    def publish_desired(self, after_change: int) -> None:
        """Send, retained, every envelope that was set after the `after_change`-th change of desired state."""
        with self._publishing:
            with self._database.reading() as connection:
                changed = twins.desired_changed_after(connection, after_change)
            for each in changed:
                self._client.publish(topics.topic(each.device, topics.DESIRED), each.envelope, qos=1, retain=True)
        if changed:
            _LOG.info("published desired devices=%d after_change=%d", len(changed), after_change)

    def expel(self, device: str) -> None:
        """Keep a revoked device out: the broker reads the revocation list again, and the running session is taken over."""
        self._reload_broker()
        for suffix in (topics.DESIRED, topics.REPORTED, topics.PRESENCE):
            self._client.publish(topics.topic(device, suffix), b"", qos=1, retain=True)
        if not self._take_over_session(device):
            _LOG.warning("the broker did not let us end the session of device=%s; it ends when its connection does", device)

    def _take_over_session(self, device: str) -> bool:
        """Connect under the device's own name with a certificate made for that: a broker allows a name one connection."""
        taken = threading.Event()
        client = _new_client(device)
        client.on_connect = lambda *_arguments: taken.set()
        with tempfile.TemporaryDirectory(dir=self._state.path, prefix=".expel-") as folder:
            certificate_file, key_file, key = Path(folder) / "pem", Path(folder) / "key", new_key()
            certificate = self._state.authority.issue_client(device, key.public_key(), datetime.now(UTC), days=1)
            certificate_file.write_bytes(certificate_pem(certificate))
            key_file.write_bytes(key_pem(key))
            client.tls_set_context(_tls(self._state.ca_file, certificate_file, key_file))
        try:
            client.connect(self._address.host, self._address.port, keepalive=_KEEPALIVE_S)
        except OSError as failed:
            _LOG.warning("cannot reach the broker to end a session device=%s error=%s", device, failed)
            return False
        client.loop_start()
        arrived = taken.wait(_EXPEL_TIMEOUT_S)
        client.disconnect()
        client.loop_stop()
        return arrived

    # What the client's own thread calls; the last parameters differ between paho-mqtt 1.6 and 2.

    def _on_connect(self, client: Any, _userdata: object, _flags: object, code: Any, *_properties: object) -> None:
        if code != 0:
            _LOG.warning("the broker refuses the cloud reason=%s", code)
            return
        self.connected = True
        _LOG.info("connected broker=%s:%d", self._address.host, self._address.port)
        self._catch_up(client)

    def _catch_up(self, client: Any) -> None:
        """Hear every device, the reports that the broker kept included, and say what is desired of each."""
        heard = (topics.REPORTED, topics.TELEMETRY, topics.PRESENCE)
        client.subscribe([(topics.from_all_devices(suffix), 1) for suffix in heard])
        try:
            self.publish_desired(after_change=0)  # a broker may have forgotten what it retained
            self._missed = False
        except UnreachableError as away:
            self._missed = True
            _LOG.warning("cannot publish desired state error=%s", away)
        except Exception:  # noqa: BLE001  an exception here would end the client's thread for good
            _LOG.exception("cannot publish desired state")

    def _on_disconnect(self, *_arguments: object) -> None:
        if self.connected:
            _LOG.info("disconnected broker=%s:%d", self._address.host, self._address.port)
        self.connected = False

    def _on_message(self, client: Any, _userdata: object, message: Any) -> None:
        try:
            self._take(topics.parse_topic(message.topic), message.payload, retained=bool(message.retain))
            if self._missed:
                self._catch_up(client)
        except UnreachableError as away:
            self._missed = True  # the broker keeps reports, and devices keep telemetry that nobody acknowledged
            _LOG.warning("cannot take message topic=%s error=%s", message.topic, away)
        except EdgewrightError as refused:
            _LOG.warning("refused message topic=%s error=%s", message.topic, refused)
        except Exception:  # noqa: BLE001  one message must not end the client's thread, and with it every device's hearing
            _LOG.exception("cannot take message topic=%s", message.topic)

    def _take(self, topic: topics.DeviceTopic, payload: bytes, *, retained: bool) -> None:
        device, now = topic.device, datetime.now(UTC)
        if not payload:  # a retained message was cleared
            return
        if topic.suffix == topics.REPORTED:
            report = wire.decode(payload, ReportedState, what=f"the report of {device}")
            with self._database.transaction() as connection:
                twins.store_report(connection, device, report, now, live=not retained)
        elif topic.suffix == topics.TELEMETRY:
            self._store_telemetry(device, payload, now)
        elif topic.suffix == topics.PRESENCE and not retained:
            presence = wire.decode(payload, Presence, what=f"the presence of {device}")
            with self._database.transaction() as connection:
                devices.mark_seen(connection, device, now, offline=not presence.online)

    def _store_telemetry(self, device: str, payload: bytes, now: datetime) -> None:
        batch = wire.decode(payload, TelemetryBatch, what=f"the telemetry of {device}")
        with self._database.transaction() as connection:
            acknowledged = telemetry.store(connection, device, batch, now)
        self._client.publish(topics.topic(device, topics.TELEMETRY_ACK), wire.encode(acknowledged), qos=1)


def _new_client(name: str) -> Any:
    """Make a client; paho-mqtt 2 wants to be told which callbacks it is given, 1.6 does not know the question."""
    if hasattr(paho, "CallbackAPIVersion"):
        return paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=True)
    return paho.Client(client_id=name, clean_session=True)


def _tls(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file))
    context.load_cert_chain(certificate_file, key_file)
    return context
