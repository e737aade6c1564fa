"""MQTT over TLS with the device's certificate (P60 to P62).

`connection.py` reconnects, so the reconnect loop of the library is off. The keepalive detects a peer that disappears silently.
Works with paho-mqtt 1.6 and 2.x, whose callbacks differ in their arguments.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho

from edge_agent.link.transport import Receiver
from edgewright.contracts import wire
from edgewright.contracts.connection import topics
from edgewright.contracts.connection.enrolment import BrokerAddress
from edgewright.contracts.messages import Presence
from edgewright.errors import UnreachableError

KEEPALIVE_S = 30
ANSWER_TIMEOUT_S = 15.0


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
        self._client: paho.Client | None = None
        self._lost: asyncio.Future[str] | None = None
        self._delivered: dict[int, asyncio.Future[None]] = {}

    async def open(self) -> None:
        """Connect, subscribe, and publish that the device is online."""
        loop = asyncio.get_running_loop()
        connected: asyncio.Future[None] = loop.create_future()
        self._lost = loop.create_future()
        self._delivered = {}
        client = self._new_client(loop, connected, self._lost)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.to_thread(client.connect, self._broker.host, self._broker.port, self._keepalive_s)
                client.loop_start()
                await connected
            self._client = client
            await self._subscribe(client)
            presence = wire.encode(Presence(online=True, boot_id=self._boot_id))
            await self._publish(topics.PRESENCE, presence, retain=True)
        except (OSError, TimeoutError, ValueError, UnreachableError) as error:
            await self._end(client)
            raise UnreachableError(
                f"cannot connect to the broker at {self._broker.host}:{self._broker.port}: {error or type(error).__name__}"
            ) from error
        except BaseException:
            await self._end(client)
            raise

    async def lost(self) -> str:
        """Wait for the end of the session and return the reason."""
        assert self._lost is not None, "open comes first"
        return await asyncio.shield(self._lost)

    async def report(self, body: bytes) -> None:
        """Publish the report as a retained message and return when the broker has acknowledged it."""
        await self._publish(topics.REPORTED, body, retain=True)

    async def telemetry(self, body: bytes) -> None:
        """Publish a batch and return when the broker has it; the cloud's acknowledgement follows later."""
        await self._publish(topics.TELEMETRY, body, retain=False)

    async def close(self) -> None:
        """Publish that the device is offline, as the last will would, and disconnect."""
        if self._client is None:
            return
        with suppress(UnreachableError):
            await self._publish(topics.PRESENCE, wire.encode(Presence(online=False, boot_id=self._boot_id)), retain=True)
        await self._end(self._client)

    def _new_client(
        self, loop: asyncio.AbstractEventLoop, connected: asyncio.Future[None], lost: asyncio.Future[str]
    ) -> paho.Client:
        """Return a client whose callbacks are passed from its network thread to the event loop."""
        version = getattr(paho, "CallbackAPIVersion", None)
        first = () if version is None else (version.VERSION2,)
        client = paho.Client(*first, client_id=self._device, protocol=paho.MQTTv311, reconnect_on_failure=False)
        client.tls_set_context(self._make_context())
        offline = wire.encode(Presence(online=False, boot_id=self._boot_id))
        client.will_set(self._topic(topics.PRESENCE), offline, qos=1, retain=True)
        client.on_socket_open = _no_delay
        client.on_connect = lambda _c, _u, _f, code, *_: loop.call_soon_threadsafe(_connected, connected, code)
        client.on_disconnect = lambda _c, _u, *rest: loop.call_soon_threadsafe(_settle, lost, _end_reason(rest))
        client.on_publish = lambda _c, _u, number, *_: loop.call_soon_threadsafe(self._published, number)
        client.on_subscribe = lambda _c, _u, number, *_: loop.call_soon_threadsafe(self._published, number)
        client.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(self._received, message.topic, message.payload)
        return client

    async def _subscribe(self, client: paho.Client) -> None:
        code, number = client.subscribe([(self._topic(topics.DESIRED), 1), (self._topic(topics.TELEMETRY_ACK), 1)])
        await self._acknowledged(code, number)

    async def _publish(self, suffix: str, body: bytes, *, retain: bool) -> None:
        if self._client is None:
            raise UnreachableError("the session with the broker must be open, but it is not")
        sent = self._client.publish(self._topic(suffix), body, qos=1, retain=retain)
        await self._acknowledged(sent.rc, sent.mid)

    async def _acknowledged(self, code: int, number: int) -> None:
        """Wait until the broker has acknowledged packet `number`."""
        if code != paho.MQTT_ERR_SUCCESS:
            raise UnreachableError(f"the broker did not accept a message: {paho.error_string(code)}")
        assert self._lost is not None
        # The callback may be queued already, but it cannot have run, because there is no await since the message was sent.
        waiting = self._delivered.setdefault(number, asyncio.get_running_loop().create_future())
        try:
            either: set[asyncio.Future[Any]] = {waiting, self._lost}
            done, _ = await asyncio.wait(either, timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._delivered.pop(number, None)
        if waiting not in done:
            raise UnreachableError("the broker did not acknowledge a message")

    def _published(self, number: int) -> None:
        waiting = self._delivered.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _received(self, topic: str, body: bytes) -> None:
        if not body:  # a retained message was cleared: MQTT 3.1.1, section 3.3.1.3
            return
        if topic == self._topic(topics.DESIRED):
            self._receiver.desired.receive(body)
        elif topic == self._topic(topics.TELEMETRY_ACK):
            self._receiver.acknowledgements.receive(body)

    async def _end(self, client: paho.Client) -> None:
        self._client = None
        await asyncio.to_thread(_disconnect, client)

    def _topic(self, suffix: str) -> str:
        return topics.topic(self._device, suffix)


def _connected(connected: asyncio.Future[None], code: Any) -> None:
    if connected.done():
        return
    if code == 0:
        connected.set_result(None)
    else:
        connected.set_exception(UnreachableError(f"it rejected the session: {code}"))


def _settle(lost: asyncio.Future[str], reason: str) -> None:
    if not lost.done():
        lost.set_result(reason)


def _end_reason(arguments: tuple[Any, ...]) -> str:
    """Return the reason why a session ended; 1.6 passes (code), 2.x passes (flags, code, properties)."""
    return f"the session with the broker ended: {arguments[1] if len(arguments) > 1 else paho.error_string(arguments[0])}"


def _no_delay(_client: Any, _userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _disconnect(client: paho.Client) -> None:
    client.disconnect()
    client.loop_stop()
