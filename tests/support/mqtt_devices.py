"""Devices of a running cloud that use MQTT, and the cloud's records of them."""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from edgewright.contracts import wire
from edgewright.contracts.connection import topics
from edgewright.contracts.messages import Measurement, Presence, ReportedState, TelemetryBatch
from tests.support.running_cloud import EnrolledDevice, Http, RunningCloud

WAIT_S = 15.0


class Client:
    """A device's MQTT client: `received` holds messages, `accepted` the reason codes of connection attempts."""

    def __init__(self, cloud: RunningCloud, certificate: tuple[Path, Path] | None, name: str) -> None:
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.accepted: queue.Queue[int] = queue.Queue()
        self.disconnected = threading.Event()
        self.subscribed = threading.Event()
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=str(cloud.ca))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self.paho.tls_set_context(context)
        self.paho.on_connect = lambda _client, _data, _flags, code, _properties: self.accepted.put(code.value)
        self.paho.on_message = lambda _client, _data, message: self.received.put((message.topic, message.payload))
        self.paho.on_disconnect = lambda *_arguments: self.disconnected.set()
        self.paho.on_subscribe = lambda *_arguments: self.subscribed.set()
        assert cloud.broker is not None
        self.address = cloud.broker

    def subscribe(self, pattern: str) -> None:
        self.subscribed.clear()
        self.paho.subscribe(pattern, qos=1)
        assert self.subscribed.wait(WAIT_S)

    def publish(self, topic: str, body: object, *, retain: bool = False) -> Any:
        raw = body if isinstance(body, bytes) else wire.encode(body)
        message = self.paho.publish(topic, raw, qos=1, retain=retain)
        message.wait_for_publish(WAIT_S)
        return message

    def receive(self) -> tuple[str, bytes]:
        return self.received.get(timeout=WAIT_S)


@contextmanager
def connected(cloud: RunningCloud, device: EnrolledDevice, *, will: Presence | None = None) -> Iterator[Client]:
    """Yield a client that the broker has accepted."""
    client = Client(cloud, device.certificate, device.device)
    if will is not None:
        client.paho.will_set(topics.topic(device.device, topics.PRESENCE), wire.encode(will), qos=1, retain=True)
    client.paho.connect(*client.address)
    client.paho.loop_start()
    try:
        assert client.accepted.get(timeout=WAIT_S) == 0
        yield client
    finally:
        client.paho.disconnect()
        client.paho.loop_stop()


def record_once(operator: Http, device: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the device's record as soon as `holds` is true of it, following the change counter."""
    number = 0
    while True:
        record: dict[str, Any] = operator.get(f"/v1/devices/{device}").json()
        if holds(record):
            return record
        current = operator.get(f"/v1/changes?after={number}&wait_s={WAIT_S}").json()["number"]
        assert current != number, f"nothing changed for {WAIT_S} s: {record}"
        number = current


def report(device: str, sequence: int, reason: str = "all is well") -> ReportedState:
    return ReportedState(
        device=device, desired_number=0, state=None, reason=reason, since=datetime.now(UTC), boot_id="boot", sequence=sequence
    )


def batch(device: str, *sequences: int) -> TelemetryBatch:
    measurements = [Measurement(sequence=each, at=datetime.now(UTC), name="latency", value=1.5, unit="ms") for each in sequences]
    return TelemetryBatch(device=device, queue_id="q1", measurements=tuple(measurements))
