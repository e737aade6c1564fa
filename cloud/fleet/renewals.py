"""Whether a device may have its next certificate.

    over_tls     the handshake has shown that it holds the key of a certificate that is good
    challenge    a nonce, for a device whose certificate has expired: no handshake lets it in any more
    by_proof     that device signs the nonce and a CSR with its old key, and is back without hands

A nonce is sealed, not stored: strangers ask for them, and what strangers ask for must cost no memory. The serial number of the
certificate that it leads to is made from the nonce, so the table of certificates itself refuses one that comes twice.
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
from edgewright.contracts.messages import RenewalChallenge, RenewalProof
from edgewright.contracts.signing import RENEWAL_TYPE, Envelope, TrustedKeys
from edgewright.errors import BadInputError, ConflictError, DeniedError, SignatureError

CHALLENGE_S = 120.0
"""Long enough for a slow device on a slow line to make a key and answer."""
RECOVERY = timedelta(days=2 * 365)
"""How long after its expiry a certificate still leads to a new one."""
_RANDOM_BYTES = 16
_INSTANT_BYTES = 8
_SEAL_BYTES = 32


def over_tls(
    connection: Connection, authority: Authority, present: x509.Certificate, csr_pem: str, now: datetime, *, days: float
) -> Enrolled:
    """Give a member whose present certificate opened the connection its next one."""
    return devices.renew(connection, present, lambda device: authority.issue_device(csr_pem, device, now, days))


def challenge(authority: Authority, now: datetime) -> RenewalChallenge:
    """Return a nonce of this cloud that is good for a short time."""
    expires_at = now.replace(microsecond=0) + timedelta(seconds=CHALLENGE_S)
    body = secrets.token_bytes(_RANDOM_BYTES) + int(expires_at.timestamp()).to_bytes(_INSTANT_BYTES, "big")
    nonce = base64.urlsafe_b64encode(body + _seal(authority, body)).decode("ascii")
    return RenewalChallenge(nonce=nonce, expires_at=expires_at)


def by_proof(connection: Connection, authority: Authority, envelope: Envelope, now: datetime, *, days: float) -> Enrolled:
    """Give a device its next certificate that proves to hold the key of an expired one.

    Raises:
        DeniedError: a nonce that is not ours or not fresh, a certificate that is not ours, was revoked, was replaced, or expired
            too long ago, or a signature that its key did not make.
        ConflictError: the certificate has not expired, or the nonce was used.
        BadInputError: the envelope, the certificate or the CSR is none.
    """
    claimed = _claim_of(envelope)
    serial = serial_of_nonce(authority, claimed.nonce, now)
    expired = _certificate(claimed.certificate_pem)
    if not authority.issued(expired):
        raise DeniedError("the expired certificate must be of this cloud's authority, but it is not: enrol the device")
    _check_signature(envelope, expired)
    _check_age(expired, now)
    if devices.has_moved_on(connection, expired):
        raise DeniedError(
            "only a device's last certificate leads back, but this one was replaced and the device heard of since: "
            "use the newer one, or enrol the device again"
        )
    return devices.renew(
        connection, expired, lambda device: authority.issue_device(claimed.csr_pem, device, now, days, serial=serial)
    )


def serial_of_nonce(authority: Authority, nonce: str, now: datetime) -> int:
    """Return the serial number that a nonce leads to; raise `DeniedError` unless this cloud made it a short time ago."""
    try:
        raw = base64.b64decode(nonce, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    body, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if len(body) != _RANDOM_BYTES + _INSTANT_BYTES or not hmac.compare_digest(seal, _seal(authority, body)):
        raise DeniedError("the nonce must be one of this cloud's, but it is not: ask for one with GET /v1/renew")
    expires_at = datetime.fromtimestamp(int.from_bytes(body[_RANDOM_BYTES:], "big"), UTC)
    if now >= expires_at:
        raise DeniedError(f"the nonce was good until {expires_at:%Y-%m-%d %H:%M:%S} UTC: ask for another with GET /v1/renew")
    # From the bytes, as one number has more than one text in base64; 159 bits, as RFC 5280 allows at most 20 octets.
    return int.from_bytes(hashlib.sha256(body).digest()[:20], "big") >> 1


def _claim_of(envelope: Envelope) -> RenewalProof:
    """Read what nobody has vouched for yet: it names the certificate whose key must have signed it."""
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise BadInputError(f"the envelope's payload must be base64: {wrong}") from wrong
    return wire.decode(payload, RenewalProof, what="the envelope's payload")


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("utf-8"))
    except ValueError as wrong:
        raise BadInputError(f"certificate_pem must be a PEM certificate: {wrong}") from wrong


def _check_signature(envelope: Envelope, certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey), "the authority vouches for no other kind"
    try:
        TrustedKeys((key,)).verify(wire.encode(envelope), RENEWAL_TYPE)
    except (SignatureError, UnsupportedAlgorithm) as wrong:
        raise DeniedError(f"the key of the expired certificate must have signed the renewal, but: {wrong}") from wrong


def _check_age(certificate: x509.Certificate, now: datetime) -> None:
    expired_at = certificate.not_valid_after_utc
    if now < expired_at:
        raise ConflictError(
            f"the certificate is good until {expired_at:%Y-%m-%d %H:%M} UTC: renew it over TLS, POST /v1/device/certificate"
        )
    if now > expired_at + RECOVERY:
        raise DeniedError(
            f"the certificate must have expired at most {RECOVERY.days} days ago, but it did at {expired_at:%Y-%m-%d} UTC: "
            "enrol the device again"
        )


def _seal(authority: Authority, body: bytes) -> bytes:
    return hmac.digest(authority.secret_for("renewal nonce"), body, "sha256")
