"""One MQTT 3.1.1 session over TLS; `connection.py` reconnects, so the reconnect loop of the library is off.

The library's thread passes everything to the event loop. The keepalive detects a peer that disappears silently.
Works with paho-mqtt 1.6 and 2.x, whose callbacks differ in their arguments.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho

from edgewright.errors import DeniedError, UnreachableError

KEEPALIVE_S = 30
ANSWER_TIMEOUT_S = 15.0
_REFUSED_CREDENTIALS = (4, 5, 134, 135)
"""CONNACK codes of MQTT 3.1.1 and 5 for a wrong user name, password or right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """The peer of a session, and the identity of the client."""

    host: str
    port: int
    client_id: str
    context: ssl.SSLContext
    username: str = ""
    password: str | None = field(default=None, repr=False)
    last_will: tuple[str, bytes] | None = None
    """Topic and body of a retained message that the broker publishes if the session is lost."""
    clean_session: bool = True
    keepalive_s: int = KEEPALIVE_S


class MqttSession:
    """A session that is opened once."""

    def __init__(self, options: SessionOptions, receive: Callable[[str, bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self._options = options
        self._receive = receive
        self._connected: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._delivered: dict[int, asyncio.Future[None]] = {}
        self._client = self._new_client(loop)

    async def open(self, filters: Sequence[str]) -> None:
        """Connect and subscribe.

        Raises:
            DeniedError: the broker does not accept the user name and password.
            UnreachableError: the broker does not answer, or it rejects the session or a subscription.
        """
        options = self._options
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.to_thread(self._client.connect, options.host, options.port, options.keepalive_s)
                self._client.loop_start()
                await self._connected
            code, number = self._client.subscribe([(each, 1) for each in filters])
            await self._acknowledged(code, number)
        except (OSError, TimeoutError, ValueError) as error:
            await self.close()
            raise UnreachableError(str(error) or type(error).__name__) from error
        except BaseException:
            await self.close()
            raise

    async def lost(self) -> str:
        """Wait for the end of the session and return the reason."""
        return await asyncio.shield(self._lost)

    async def publish(self, topic: str, body: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 1 and return when the broker has acknowledged the message.

        Raises:
            UnreachableError: it was not acknowledged.
        """
        sent = self._client.publish(topic, body, qos=1, retain=retain)
        await self._acknowledged(sent.rc, sent.mid)

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.to_thread(_disconnect, self._client)

    def _new_client(self, loop: asyncio.AbstractEventLoop) -> paho.Client:
        """Return a client whose callbacks are passed from its network thread to the event loop."""
        version, options = getattr(paho, "CallbackAPIVersion", None), self._options
        first = () if version is None else (version.VERSION2,)
        client = paho.Client(
            *first,
            client_id=options.client_id,
            clean_session=options.clean_session,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.tls_set_context(options.context)
        if options.username:
            client.username_pw_set(options.username, options.password)
        if options.last_will is not None:
            client.will_set(*options.last_will, qos=1, retain=True)
        client.on_socket_open = _no_delay
        client.on_connect = lambda _c, _u, _f, code, *_: loop.call_soon_threadsafe(_settle_connect, self._connected, code)
        client.on_disconnect = lambda _c, _u, *rest: loop.call_soon_threadsafe(_settle, self._lost, _end_reason(rest))
        client.on_publish = lambda _c, _u, number, *_: loop.call_soon_threadsafe(self._published, number)
        client.on_subscribe = lambda _c, _u, number, *_: loop.call_soon_threadsafe(self._published, number)
        client.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(self._receive, message.topic, message.payload)
        return client

    async def _acknowledged(self, code: int, number: int | None) -> None:
        """Wait until the broker has acknowledged packet `number`."""
        if code != paho.MQTT_ERR_SUCCESS or number is None:
            raise UnreachableError(f"the broker did not accept a message: {paho.error_string(code)}")
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


def _settle_connect(connected: asyncio.Future[None], code: Any) -> None:
    if connected.done():
        return
    if code == 0:
        connected.set_result(None)
    elif getattr(code, "value", code) in _REFUSED_CREDENTIALS:
        connected.set_exception(DeniedError(f"it rejected the session: {code}"))
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
