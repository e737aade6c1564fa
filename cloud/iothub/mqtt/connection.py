"""One client on MQTT: from CONNECT to its end, over any transport of bytes.

A client must send CONNECT in time, then something within 1.5 times its keep-alive. Its credential ends the connection when it
expires. A client that sends faster than the hub stores is not read until the hub has caught up; a client that does not read
its messages is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from cloud.iothub.mqtt import packets
from cloud.iothub.mqtt.packets import (
    Acknowledge,
    Connect,
    Decoder,
    Disconnect,
    Packet,
    PacketError,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
)
from cloud.iothub.mqtt.sessions import Open, Session
from edgewright.errors import DeniedError

_LOG = logging.getLogger(__name__)

CONNECT_S = 30.0
MAX_KEEP_ALIVE_S = 1767
"""The longest time without a packet: 29 minutes and 27 seconds, as in IoT Hub. It also applies to a keep-alive of 0."""
MAX_UNSTORED = 1000
"""Messages of one client that may wait for the store."""
MAX_UNREAD_BYTES = 4 << 20
_ACCEPTED, _WRONG_LEVEL, _NOT_AUTHORISED = 0, 1, 5
_LEVEL_3_1_1 = 4


class Transport(Protocol):
    """The part of an `asyncio.Transport` that a connection uses."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class Connection:
    """One client; its transport calls `received` and `lost`."""

    def __init__(self, transport: Transport, certificate: bytes | None, open_session: Open, address: str) -> None:
        self._transport = transport
        self._certificate = certificate
        self._open_session = open_session
        self._address = address
        self._decoder = Decoder()
        self._session: Session | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(CONNECT_S, self.close, f"no CONNECT within {CONNECT_S:g} s")
        self._expiry: asyncio.TimerHandle | None = None
        self._keep_alive_s = 0.0
        self._heard_at = self._loop.time()
        self._unstored = 0
        self._next_id = 0
        self._unacknowledged: dict[int, Callable[[], None]] = {}
        self._is_closed = False

    @property
    def identity(self) -> str:
        """The identity of the client; its address before CONNECT."""
        return self._session.identity if self._session else self._address

    def received(self, data: bytes) -> None:
        """Handle bytes of the client."""
        if self._is_closed:
            return
        self._heard_at = self._loop.time()
        try:
            for packet in self._decoder.feed(data):
                self._handle(packet)
                if self._is_closed:
                    return
        except PacketError as error:
            self.close(str(error))

    def lost(self) -> None:
        """Release everything after the transport has ended."""
        self._is_closed = True
        self._timer.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._unacknowledged.clear()
        if self._session is not None:
            self._session.detach(self)

    def close(self, reason: str) -> None:
        """End the connection; the reason is logged."""
        if self._is_closed:
            return
        self._is_closed = True
        _LOG.info("disconnected client=%s reason=%s", self.identity, reason)
        self._transport.close()
        self._loop.call_later(5.0, self._transport.abort)  # a client that does not read would keep the connection half open

    def send(self, topic: str, payload: bytes, on_acknowledged: Callable[[], None] | None = None) -> None:
        """Send a message; with `on_acknowledged` at QoS 1."""
        if self._is_closed:
            return
        packet_id = 0
        if on_acknowledged is not None:
            packet_id = self._free_id()
            self._unacknowledged[packet_id] = on_acknowledged
        self._write(packets.encode_publish(topic, payload, packet_id=packet_id))

    def _handle(self, packet: Packet) -> None:
        if isinstance(packet, Publish) and self._session is not None:
            self._publish(self._session, packet)
        elif isinstance(packet, Connect) == (self._session is not None):
            raise PacketError("a client must send CONNECT first and only once")
        elif isinstance(packet, Connect):
            self._connect(packet)
        elif isinstance(packet, Acknowledge):
            self._unacknowledged.pop(packet.packet_id, lambda: None)()
        elif isinstance(packet, Ping):
            self._write(packets.PING_RESPONSE)
        elif isinstance(packet, Disconnect):
            self.close("the client disconnected")
        elif isinstance(packet, Subscribe | Unsubscribe) and self._session is not None:
            self._subscriptions(self._session, packet)

    def _connect(self, packet: Connect) -> None:
        if packet.level != _LEVEL_3_1_1:
            self._write(packets.encode_connack(_WRONG_LEVEL))
            self.close(f"the protocol level must be {_LEVEL_3_1_1} (MQTT 3.1.1), not {packet.level}")
            return
        try:
            self._session = session = self._open_session(packet, self._certificate)
        except DeniedError as error:
            self._write(packets.encode_connack(_NOT_AUTHORISED))
            _LOG.warning("refused client=%s address=%s reason=%s", packet.client_id[:300], self._address, error)
            self.close("refused")
            return
        is_present = session.attach(self, clean_session=packet.clean_session)
        self._write(packets.encode_connack(_ACCEPTED, session_present=is_present))
        _LOG.info("connected client=%s address=%s", self.identity, self._address)
        self._start_timers(session, packet.keep_alive_s)
        session.resume()

    def _start_timers(self, session: Session, keep_alive_s: int) -> None:
        self._keep_alive_s = min(1.5 * keep_alive_s or MAX_KEEP_ALIVE_S, MAX_KEEP_ALIVE_S)
        self._timer.cancel()
        self._timer = self._loop.call_later(self._keep_alive_s, self._check_alive)
        if session.expires_at is not None:
            valid_s = max(session.expires_at - datetime.now(UTC).timestamp(), 0.0)
            self._expiry = self._loop.call_later(valid_s, self.close, "the token has expired")

    def _check_alive(self) -> None:
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= self._keep_alive_s:
            self.close(f"nothing was received for {silent_s:.0f} s")
        else:
            self._timer = self._loop.call_later(self._keep_alive_s - silent_s, self._check_alive)

    def _publish(self, session: Session, packet: Publish) -> None:
        self._unstored += 1
        if self._unstored == MAX_UNSTORED:
            self._transport.pause_reading()
        session.publish(self, packet, lambda: self._stored(packet))

    def _stored(self, packet: Publish) -> None:
        self._unstored -= 1
        if self._is_closed:
            return
        if packet.qos:
            self._write(packets.encode_puback(packet.packet_id))
        if self._unstored == MAX_UNSTORED // 2:
            self._transport.resume_reading()

    def _subscriptions(self, session: Session, packet: Subscribe | Unsubscribe) -> None:
        if isinstance(packet, Unsubscribe):
            for name in packet.filters:
                session.unsubscribe(name)
            self._write(packets.encode_unsuback(packet.packet_id))
            return
        granted = [(name, qos) for name, qos in packet.filters if session.allows(name)]
        codes = bytes(min(qos, 1) if session.allows(name) else 0x80 for name, qos in packet.filters)
        self._write(packets.encode_suback(packet.packet_id, codes))
        for name, _ in granted:
            session.subscribe(name)

    def _free_id(self) -> int:
        while True:
            self._next_id = self._next_id % 0xFFFF + 1
            if self._next_id not in self._unacknowledged:
                return self._next_id

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._is_closed = True
            _LOG.warning("disconnected client=%s reason=it does not read what it gets", self.identity)
            self._transport.abort()
