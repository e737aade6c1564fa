"""The cloud's MQTT client: receive reports and telemetry, publish desired state, disconnect revoked devices.

It connects with the certificate `edgewright-cloud`, which may use every topic. The topic identifies the sender, because the
broker restricts each device to its own topics; a body that names another device is refused. Messages are processed in the
client's thread, so the broker holds messages back while the database is slow.

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
from cloud.fleet.shared_identity import record_boot_id
from cloud.state.certificates import CLOUD_NAME, certificate_pem, key_pem, new_key
from cloud.state.directory import StateDirectory
from edgewright.contracts import wire
from edgewright.contracts.connection import topics
from edgewright.contracts.connection.enrolment import BrokerAddress
from edgewright.contracts.messages import Presence, ReportedState, TelemetryBatch
from edgewright.errors import EdgewrightError, UnreachableError

_LOG = logging.getLogger("edgewright.cloud.mqtt")
_KEEPALIVE_S = 30
_TAKEOVER_TIMEOUT_S = 5.0


class MqttClient:
    """One connection to the broker, which reconnects until the cloud stops."""

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
        self._has_missed = False
        """True after a message or a publication was lost because the database was unreachable."""

    def start(self) -> None:
        """Connect in the background, and reconnect when the connection is lost."""
        self._client.connect_async(self._address.host, self._address.port, keepalive=_KEEPALIVE_S)
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect and end the client's thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def publish_desired(self, after_change: int) -> None:
        """Publish, retained, every envelope that was set after counter value `after_change`."""
        with self._publishing:
            with self._database.reading() as connection:
                changed = twins.desired_changed_after(connection, after_change)
            for each in changed:
                self._client.publish(topics.topic(each.device, topics.DESIRED), each.envelope, qos=1, retain=True)
        if changed:
            _LOG.info("published desired devices=%d after_change=%d", len(changed), after_change)

    def disconnect_device(self, device: str) -> None:
        """Disconnect a revoked device: make the broker reload the revocation list, and take over the device's session."""
        self._reload_broker()
        for suffix in (topics.DESIRED, topics.REPORTED, topics.PRESENCE):
            self._client.publish(topics.topic(device, suffix), b"", qos=1, retain=True)
        if not self._take_over_session(device):
            _LOG.warning("cannot end the session of a revoked device device=%s reason=broker refused the takeover", device)

    def _take_over_session(self, device: str) -> bool:
        """Connect under the device's client id with a temporary certificate: a broker then closes the device's connection."""
        connected = threading.Event()
        client = _new_client(device)
        client.on_connect = lambda *_arguments: connected.set()
        with tempfile.TemporaryDirectory(dir=self._state.path, prefix=".takeover-") as folder:
            certificate_file, key_file, key = Path(folder) / "pem", Path(folder) / "key", new_key()
            certificate = self._state.authority.issue_client(device, key.public_key(), datetime.now(UTC), days=1)
            certificate_file.write_bytes(certificate_pem(certificate))
            key_file.write_bytes(key_pem(key))
            client.tls_set_context(_tls(self._state.ca_file, certificate_file, key_file))
        try:
            client.connect(self._address.host, self._address.port, keepalive=_KEEPALIVE_S)
        except OSError as error:
            _LOG.warning("cannot reach the broker to end a session device=%s error=%s", device, error)
            return False
        client.loop_start()
        is_taken_over = connected.wait(_TAKEOVER_TIMEOUT_S)
        client.disconnect()
        client.loop_stop()
        return is_taken_over

    # Callbacks in the client's thread; the last parameters differ between paho-mqtt 1.6 and 2.

    def _on_connect(self, client: Any, _userdata: object, _flags: object, code: Any, *_properties: object) -> None:
        if code != 0:
            _LOG.warning("broker refused the connection reason=%s", code)
            return
        self.connected = True
        _LOG.info("connected broker=%s:%d", self._address.host, self._address.port)
        self._catch_up(client)

    def _catch_up(self, client: Any) -> None:
        """Subscribe to every device, which also delivers retained reports, and publish every desired state."""
        suffixes = (topics.REPORTED, topics.TELEMETRY, topics.PRESENCE)
        client.subscribe([(topics.from_all_devices(suffix), 1) for suffix in suffixes])
        try:
            self.publish_desired(after_change=0)  # the broker may have lost its retained messages
            self._has_missed = False
        except UnreachableError as error:
            self._has_missed = True
            _LOG.warning("cannot publish desired state error=%s", error)
        except Exception:  # noqa: BLE001  an exception here would end the client's thread
            _LOG.exception("cannot publish desired state")

    def _on_disconnect(self, *_arguments: object) -> None:
        if self.connected:
            _LOG.info("disconnected broker=%s:%d", self._address.host, self._address.port)
        self.connected = False

    def _on_message(self, client: Any, _userdata: object, message: Any) -> None:
        try:
            self._process(topics.parse_topic(message.topic), message.payload, retained=bool(message.retain))
            if self._has_missed:
                self._catch_up(client)
        except UnreachableError as error:
            self._has_missed = True  # the broker retains reports, and devices keep unacknowledged telemetry
            _LOG.warning("cannot process message topic=%s error=%s", message.topic, error)
        except EdgewrightError as error:
            _LOG.warning("refused message topic=%s error=%s", message.topic, error)
        except Exception:  # noqa: BLE001  one message must not end the client's thread
            _LOG.exception("cannot process message topic=%s", message.topic)

    def _process(self, topic: topics.DeviceTopic, payload: bytes, *, retained: bool) -> None:
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
                if presence.online:  # a last will, which says offline, comes from the broker
                    record_boot_id(connection, device, presence.boot_id, now)

    def _store_telemetry(self, device: str, payload: bytes, now: datetime) -> None:
        batch = wire.decode(payload, TelemetryBatch, what=f"the telemetry of {device}")
        with self._database.transaction() as connection:
            acknowledgement = telemetry.store(connection, device, batch, now)
        self._client.publish(topics.topic(device, topics.TELEMETRY_ACK), wire.encode(acknowledgement), qos=1)


def _new_client(name: str) -> Any:
    """Create a client; paho-mqtt 2 requires the version of the callbacks, 1.6 does not know the parameter."""
    if hasattr(paho, "CallbackAPIVersion"):
        return paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=True)
    return paho.Client(client_id=name, clean_session=True)


def _tls(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file))
    context.load_cert_chain(certificate_file, key_file)
    return context
