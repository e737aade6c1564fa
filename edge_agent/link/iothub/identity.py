"""The identity of a device or module at a hub, and the options of its MQTT session."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edge_agent.link.mqtt_session import SessionOptions
from edgewright.contracts.iothub import sas

API_VERSION = "2021-04-12"
PORT = 8883


@dataclass(frozen=True, slots=True, kw_only=True)
class HubIdentity:
    """A device or module of a hub with its credential: a signature by its key, or a certificate in `context`."""

    host: str
    device: str
    module: str = ""
    gateway: str = ""
    """Host that the client connects to instead of the hub."""
    context: ssl.SSLContext
    sign: Callable[[bytes], str] | None = field(default=None, repr=False)
    """Return the base64 signature of the device's key; None with a certificate."""

    @property
    def name(self) -> str:
        """`DEVICE`, or `DEVICE/MODULE`."""
        return f"{self.device}/{self.module}" if self.module else self.device

    def session_options(self, token_s: float) -> SessionOptions:
        """Return the options of a session, with a token that is valid for `token_s` seconds."""
        resource = f"{self.host}/devices/{self.device}" + (f"/modules/{self.module}" if self.module else "")
        return SessionOptions(
            host=self.gateway or self.host,
            port=PORT,
            client_id=self.name,
            context=self.context,
            username=f"{self.host}/{self.name}/?api-version={API_VERSION}",
            password=None if self.sign is None else sas.create_signed(resource, self.sign, int(time.time() + token_s)),
            clean_session=False,
        )


class IdentitySource(Protocol):
    """Source of the identity: a connection string, the provisioning service, or the IoT Edge runtime."""

    async def identify(self) -> HubIdentity:
        """Return the identity for the next connection.

        Raises:
            EdgewrightError: it is not configured, or its source does not answer.
        """
        ...

    def forget(self) -> None:
        """Look for the identity again before the next connection, because the last one failed."""
        ...


def signer(key: str) -> Callable[[bytes], str]:
    """Return the function that signs with a base64 key."""
    return lambda signed: sas.signature(key, signed)


def tls_context(ca_file: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Return the context of a client, with its own certificate if it has one.

    Raises:
        OSError: a file cannot be read; the agent tries again.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if certificate:
        context.load_cert_chain(certificate, key or None)
    return context
