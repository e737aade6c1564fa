"""Messages by which an enrolled device gets its next certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRequest:
    """Request of an enrolled device for its next certificate, with a new key: POST /v1/device/certificate."""

    csr_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalChallenge:
    """Answer of GET /v1/renew: a nonce that a device with an expired certificate signs with its old key, once."""

    nonce: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalProof:
    """Payload of the envelope, signed with the old key, that POST /v1/renew takes."""

    nonce: str
    certificate_pem: str
    """The expired certificate of the device."""
    csr_pem: str
    """For the new key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """The new certificate of an enrolled device; earlier ones remain valid until they expire."""

    device: str
    certificate_pem: str
    expires_at: datetime
