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
        self._connection = Connection(stream, certificate_of(transport), self._open_session, address_of(transport))

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if self._connection is not None:
            self._connection.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.lost()


def certificate_of(transport: asyncio.BaseTransport) -> bytes | None:
    """Return the certificate (DER) of which a client has proven to own the key, or None."""
    tls = transport.get_extra_info("ssl_object")
    certificate: bytes | None = tls.getpeercert(binary_form=True) if tls else None
    return certificate


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return a client's address and port."""
    return ":".join(map(str, (transport.get_extra_info("peername") or ("unknown",))[:2]))
