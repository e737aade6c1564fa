"""MQTT over TCP and TLS: an asyncio protocol that passes bytes to a `Connection`."""

from __future__ import annotations

import asyncio
from typing import cast

from cloud.iothub.mqtt.connection import Connection
from cloud.iothub.mqtt.sessions import Open


class MqttProtocol(asyncio.Protocol):
    """The bytes of one client."""

    def __init__(self, open_session: Open) -> None:
        self._open_session = open_session
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a connection with the certificate that the client has proven to own."""
        stream = cast(asyncio.Transport, transport)  # that of uvloop is no instance of it
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls else None
        address = ":".join(map(str, (transport.get_extra_info("peername") or ("unknown",))[:2]))
        self._connection = Connection(stream, certificate, self._open_session, address)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if self._connection is not None:
            self._connection.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.lost()
