"""MQTT over websockets, on the port of HTTPS: for networks that let nothing else pass.

A connection whose first request is for `/$iothub/websocket` leaves HTTP and becomes an MQTT connection; each binary frame carries
any number of bytes of MQTT (MQTT 3.1.1, section 6).
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from cloud.iothub.mqtt.connection import Connection
from cloud.iothub.mqtt.listener import address_of, certificate_of
from cloud.iothub.mqtt.packets import MAX_PACKET_BYTES
from cloud.iothub.mqtt.sessions import Open
from cloud.server import ClientCertificateProtocol

PATH = "/$iothub/websocket"
_FIRST_BYTES = f"GET {PATH}".encode()


class HubHttpProtocol(ClientCertificateProtocol):
    """HTTP until a client asks for the websocket. Subclasses name the sessions that it opens."""

    open_session: ClassVar[Open]
    _first = b""
    _is_decided = False

    def data_received(self, data: bytes) -> None:
        """Pass bytes to HTTP, or change to the websocket after the first bytes of the connection."""
        if self._is_decided:
            super().data_received(data)
            return
        self._first += data
        if len(self._first) < len(_FIRST_BYTES) and _FIRST_BYTES.startswith(self._first):
            return
        self._is_decided = True
        if not self._first.startswith(_FIRST_BYTES):
            super().data_received(self._first)
            return
        transport = self.transport
        self.connection_lost(ConnectionError())  # releases the timers of HTTP; without an error, it would close the transport
        websocket = WebsocketProtocol(type(self).open_session)
        transport.set_protocol(websocket)
        websocket.connection_made(transport)
        websocket.data_received(self._first)


def http_protocol(open_session: Open) -> type[HubHttpProtocol]:
    """Return the HTTP protocol whose websockets open these sessions."""

    class Protocol(HubHttpProtocol):
        pass

    Protocol.open_session = staticmethod(open_session)
    return Protocol


class WebsocketProtocol(asyncio.Protocol):
    """The frames of one client; for its `Connection` it is the transport."""

    def __init__(self, open_session: Open) -> None:
        self._open_session = open_session
        self._frames = ServerProtocol(subprotocols=["mqtt"], max_size=MAX_PACKET_BYTES)  # type: ignore[list-item]
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a connection."""
        assert hasattr(transport, "write")
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._connection = Connection(self, certificate_of(transport), self._open_session, address_of(transport))

    def data_received(self, data: bytes) -> None:
        """Handle frames: the request, bytes of MQTT, and those of the websocket itself."""
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Request):
                self._accept(event)
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT) and self._connection is not None:
                self._connection.received(bytes(event.data))
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.lost()

    def write(self, data: bytes) -> None:
        """Send bytes of MQTT as one frame."""
        try:
            self._frames.send_binary(data)
        except (ProtocolError, RuntimeError):  # the client has closed the websocket
            self._transport.abort()
            return
        self._flush()

    def close(self) -> None:
        """Close the websocket."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the client has not read."""
        size: int = self._transport.get_write_buffer_size()
        return size

    def _accept(self, request: Request) -> None:
        self._frames.send_response(self._frames.accept(request))

    def _flush(self) -> None:
        for data in self._frames.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()
