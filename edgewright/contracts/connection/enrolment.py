"""Messages that enrol a device, and the token as text: one string to paste, with the address and authority of the cloud."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from edgewright.contracts import wire
from edgewright.errors import DeniedError

PREFIX = "ew1."


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """Content of an enrolment token: the address of the cloud, the digest of its authority, and a secret.

    As text it is `ew1.` and the base64url of this as JSON (`edgewright/contracts/connection/enrolment.py`).
    """

    url: str
    ca_sha256: str
    """SHA-256 of the DER certificate of the cloud's authority, in hexadecimal."""
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """Request of a device for its certificate: POST /v1/enrol. The private key stays on the device."""

    secret: str
    device: str
    csr_pem: str
    profile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Address of the MQTT broker (TLS); devices present the same certificate there."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolResponse:
    """Result of the enrolment: the device's certificate and the keys that it trusts."""

    device: str
    tenant: str
    certificate_pem: str
    ca_pem: str
    cloud_key_pem: str
    """Verifies desired state."""
    publisher_keys_pem: tuple[str, ...]
    """Verify packages."""
    broker: BrokerAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Request for an enrolment token: POST /v1/tokens."""

    device: str | None = None
    """The only device that may use it; None allows any name."""
    labels: dict[str, str] = field(default_factory=dict)
    valid_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """An enrolment token, shown once."""

    token: str
    expires_at: datetime


def format_token(token: EnrolmentToken) -> str:
    """Return the text of a token."""
    return PREFIX + base64.urlsafe_b64encode(wire.encode(token)).rstrip(b"=").decode("ascii")


def parse_token(text: str) -> EnrolmentToken:
    """Parse a token.

    Raises:
        DeniedError: the text is not a token, or it is damaged.
    """
    body = text.strip().removeprefix(PREFIX)
    if not text.strip().startswith(PREFIX):
        raise DeniedError(f"an enrolment token starts with {PREFIX!r}; 'edgewright devices token' creates one")
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error as error:
        raise DeniedError("the enrolment token is damaged: copy the whole line") from error
    return wire.decode(raw, EnrolmentToken, what="the enrolment token", error=DeniedError)
