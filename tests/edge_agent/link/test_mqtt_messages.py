"""Messages of a real broker: a cleared retained message is empty and is not a desired state."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.link.mqtt import MqttTransport
from edge_agent.link.transport import Receiver
from edgewright.contracts.connection import topics
from edgewright.contracts.connection.enrolment import BrokerAddress
from tests.support.running_cloud import EnrolledDevice, RunningCloud, running

LAST = b"the last message"


@dataclass
class Inbox:
    """A receiver that keeps what it gets."""

    highest_number: int = 0
    received: list[bytes] = field(default_factory=list)
    last: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, body: bytes) -> None:
        self.received.append(body)
        if body == LAST:
            self.last.set()


async def receive_from(cloud: RunningCloud, device: EnrolledDevice, *messages: tuple[str, bytes]) -> list[bytes]:
    """Return what a transport passes on of the messages that are published, up to the last of them."""
    assert cloud.broker is not None

    def context() -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(cloud.ca))
        made.load_cert_chain(*device.certificate)
        return made

    inbox = Inbox()
    address = BrokerAddress(host=cloud.broker[0], port=cloud.broker[1])
    transport = MqttTransport(address, device.device, "boot", context, Receiver(inbox, inbox))
    await transport.open()
    try:
        for suffix, body in messages:
            await transport._publish(suffix, body, retain=True)
        await asyncio.wait_for(inbox.last.wait(), 10)
    finally:
        await transport.close()
    return inbox.received


def test_a_cleared_retained_message_is_ignored(require: Callable[[str], Path], tmp_path: Path) -> None:
    require("mosquitto")
    with running(tmp_path / "state") as cloud:
        device = cloud.enrol("edge", tmp_path)
        messages = (topics.DESIRED, b""), (topics.TELEMETRY_ACK, b""), (topics.DESIRED, LAST)
        assert asyncio.run(receive_from(cloud, device, *messages)) == [LAST]
