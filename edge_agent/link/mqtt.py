"""MQTT over TLS with the device's certificate (P60 to P62), through the broker of the cloud."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

from edge_agent.link.mqtt_session import KEEPALIVE_S, MqttSession, SessionOptions
from edge_agent.link.transport import Receiver
from edgewright.contracts import wire
from edgewright.contracts.connection import topics
from edgewright.contracts.connection.enrolment import BrokerAddress
from edgewright.contracts.messages import Presence
from edgewright.errors import DeniedError, UnreachableError


class MqttTransport:
    """One MQTT session of a device."""

    name = "mqtt"

    def __init__(
        self,
        broker: BrokerAddress,
        device: str,
        boot_id: str,
        context: Callable[[], ssl.SSLContext],
        receiver: Receiver,
        *,
        keepalive_s: int = KEEPALIVE_S,
    ) -> None:
        self._broker = broker
        self._device = device
        self._boot_id = boot_id
        self._make_context = context
        self._receiver = receiver
        self._keepalive_s = keepalive_s
        self._session: MqttSession | None = None

    async def open(self) -> None:
        """Connect, subscribe, and publish that the device is online."""
        options = SessionOptions(
            host=self._broker.host,
            port=self._broker.port,
            client_id=self._device,
            context=self._make_context(),
            last_will=(self._topic(topics.PRESENCE), wire.encode(Presence(online=False, boot_id=self._boot_id))),
            keepalive_s=self._keepalive_s,
        )
        session = MqttSession(options, self._received)
        try:
            await session.open((self._topic(topics.DESIRED), self._topic(topics.TELEMETRY_ACK)))
            self._session = session
            await self._publish(topics.PRESENCE, wire.encode(Presence(online=True, boot_id=self._boot_id)), retain=True)
        except (UnreachableError, DeniedError) as error:
            self._session = None
            await session.close()
            raise UnreachableError(f"cannot connect to the broker at {self._broker.host}:{self._broker.port}: {error}") from error
        except BaseException:
            self._session = None
            await session.close()
            raise

    async def lost(self) -> str:
        """Wait for the end of the session and return the reason."""
        assert self._session is not None, "open comes first"
        return await self._session.lost()

    async def report(self, body: bytes) -> None:
        """Publish the report as a retained message and return when the broker has acknowledged it."""
        await self._publish(topics.REPORTED, body, retain=True)

    async def telemetry(self, body: bytes) -> None:
        """Publish a batch and return when the broker has it; the cloud's acknowledgement follows later."""
        await self._publish(topics.TELEMETRY, body, retain=False)

    async def close(self) -> None:
        """Publish that the device is offline, as the last will would, and disconnect."""
        if self._session is None:
            return
        with suppress(UnreachableError):
            await self._publish(topics.PRESENCE, wire.encode(Presence(online=False, boot_id=self._boot_id)), retain=True)
        session, self._session = self._session, None
        await session.close()

    async def _publish(self, suffix: str, body: bytes, *, retain: bool) -> None:
        if self._session is None:
            raise UnreachableError("the session with the broker must be open, but it is not")
        await self._session.publish(self._topic(suffix), body, retain=retain)

    def _received(self, topic: str, body: bytes) -> None:
        if not body:  # a retained message was cleared: MQTT 3.1.1, section 3.3.1.3
            return
        if topic == self._topic(topics.DESIRED):
            self._receiver.desired.receive(body)
        elif topic == self._topic(topics.TELEMETRY_ACK):
            self._receiver.acknowledgements.receive(body)

    def _topic(self, suffix: str) -> str:
        return topics.topic(self._device, suffix)
