"""Certificate renewal: check a device's right to its next certificate, and issue it.

    over_tls     the TLS handshake has proven the key of a valid certificate
    challenge    a nonce for a device whose certificate has expired, so that a handshake is no longer possible
    by_proof     the device signs the nonce and a CSR with its old key, and recovers without an operator

A nonce is sealed with a MAC and not stored, because anonymous callers request it and must not be able to use up memory. The
serial number of the new certificate is derived from the nonce, so the table of certificates refuses a reused nonce.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from sqlalchemy import Connection

from cloud.fleet import devices
from cloud.fleet.devices import Enrolled
from cloud.state.certificates import Authority
from edgewright.contracts import wire
from edgewright.contracts.connection.renewal import RenewalChallenge, RenewalProof
from edgewright.contracts.signing import RENEWAL_TYPE, Envelope, TrustedKeys
from edgewright.errors import BadInputError, ConflictError, DeniedError, SignatureError

CHALLENGE_S = 120.0
"""Validity of a nonce; a slow device needs time to generate a key and answer."""
RECOVERY = timedelta(days=2 * 365)
"""Time after its expiry in which a certificate can still be renewed."""
_RANDOM_BYTES = 16
_INSTANT_BYTES = 8
_SEAL_BYTES = 32


def over_tls(
    connection: Connection, authority: Authority, present: x509.Certificate, csr_pem: str, now: datetime, *, days: float
) -> Enrolled:
    """Issue the next certificate to the device whose certificate authenticated the connection."""
    return devices.renew(connection, present, lambda device: authority.issue_device(csr_pem, device, now, days))


def challenge(authority: Authority, now: datetime) -> RenewalChallenge:
    """Return a sealed nonce that expires after `CHALLENGE_S`."""
    expires_at = now.replace(microsecond=0) + timedelta(seconds=CHALLENGE_S)
    body = secrets.token_bytes(_RANDOM_BYTES) + int(expires_at.timestamp()).to_bytes(_INSTANT_BYTES, "big")
    nonce = base64.urlsafe_b64encode(body + _seal(authority, body)).decode("ascii")
    return RenewalChallenge(nonce=nonce, expires_at=expires_at)


def by_proof(connection: Connection, authority: Authority, envelope: Envelope, now: datetime, *, days: float) -> Enrolled:
    """Issue the next certificate to a device that proves possession of the key of its expired one.

    Raises:
        DeniedError: the nonce is forged or expired; the certificate is of another authority, was revoked, was replaced, or
            expired too long ago; or the signature does not match its key.
        ConflictError: the certificate has not expired, or the nonce was used.
        BadInputError: the envelope, the certificate or the CSR cannot be decoded.
    """
    claim = _unverified_claim(envelope)
    serial = serial_of_nonce(authority, claim.nonce, now)
    expired = _certificate(claim.certificate_pem)
    if not authority.issued(expired):
        raise DeniedError("the expired certificate must be issued by this cloud, but it was not: enrol the device")
    _check_signature(envelope, expired)
    _check_age(expired, now)
    if devices.has_later_certificate(connection, expired):
        raise DeniedError(
            "the expired certificate must be the device's newest, but a newer one is already in use: "
            "use the newer one, or enrol the device again"
        )
    return devices.renew(
        connection, expired, lambda device: authority.issue_device(claim.csr_pem, device, now, days, serial=serial)
    )


def serial_of_nonce(authority: Authority, nonce: str, now: datetime) -> int:
    """Return the serial number that is derived from a nonce.

    Raises:
        DeniedError: this cloud did not issue the nonce, or it has expired.
    """
    try:
        raw = base64.b64decode(nonce, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    body, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if len(body) != _RANDOM_BYTES + _INSTANT_BYTES or not hmac.compare_digest(seal, _seal(authority, body)):
        raise DeniedError("the nonce must be issued by this cloud, but it was not: request one with GET /v1/renew")
    expires_at = datetime.fromtimestamp(int.from_bytes(body[_RANDOM_BYTES:], "big"), UTC)
    if now >= expires_at:
        raise DeniedError(
            f"the nonce must not be expired, but it expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC: "
            "request another with GET /v1/renew"
        )
    # Hash the bytes, because one value has several base64 encodings; 159 bits, because RFC 5280 allows at most 20 octets.
    return int.from_bytes(hashlib.sha256(body).digest()[:20], "big") >> 1


def _unverified_claim(envelope: Envelope) -> RenewalProof:
    """Decode the payload before verification: it contains the certificate whose key must have signed it."""
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInputError(f"the envelope's payload must be base64: {error}") from error
    return wire.decode(payload, RenewalProof, what="the envelope's payload")


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("utf-8"))
    except ValueError as error:
        raise BadInputError(f"certificate_pem must be a PEM certificate: {error}") from error


def _check_signature(envelope: Envelope, certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey), "the authority signs no other kind of key"
    try:
        TrustedKeys((key,)).verify(wire.encode(envelope), RENEWAL_TYPE)
    except (SignatureError, UnsupportedAlgorithm) as error:
        raise DeniedError(f"the renewal must be signed by the key of the expired certificate: {error}") from error


def _check_age(certificate: x509.Certificate, now: datetime) -> None:
    expired_at = certificate.not_valid_after_utc
    if now < expired_at:
        raise ConflictError(
            f"the certificate is valid until {expired_at:%Y-%m-%d %H:%M} UTC: renew it over TLS with POST /v1/device/certificate"
        )
    if now > expired_at + RECOVERY:
        raise DeniedError(
            f"the certificate must have expired at most {RECOVERY.days} days ago, but it expired at {expired_at:%Y-%m-%d} UTC: "
            "enrol the device again"
        )


def _seal(authority: Authority, body: bytes) -> bytes:
    return hmac.digest(authority.secret_for("renewal nonce"), body, "sha256")
