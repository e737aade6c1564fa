"""The credential of a client on MQTT or HTTP: a token of one of its keys, or a client certificate.

A certificate is that of a thumbprint, or is issued by an uploaded authority for the device's name. The TLS handshake has proven
that the client has the certificate's key, but not that the certificate is this device's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from cloud.iothub.devices.identities import Authentication, Identity
from edgewright.contracts.iothub import sas
from edgewright.errors import DeniedError


@dataclass(frozen=True, slots=True)
class Credential:
    """A client's token, its certificate (DER), or both; `hosts` are the names of the hub."""

    token: str
    certificate: bytes | None
    hosts: Collection[str]


def check(
    identity: Identity, device: Identity, credential: Credential, authorities: Collection[x509.Certificate]
) -> float | None:
    """Check the credential of an identity; return the UNIX time at which it expires, or None for a certificate.

    `device` is the identity itself, or that of a module's device: a token of the device is valid for its modules.

    Raises:
        DeniedError: the identity is disabled, or the credential is not valid.
    """
    if not device.is_enabled:
        raise DeniedError(f"the device {device.name} is disabled")
    if identity.authentication is Authentication.SAS:
        return _check_token(identity, device, credential)
    if credential.certificate is None:
        raise DeniedError(f"{identity.name} must send a client certificate, but it sent none")
    if identity.authentication is Authentication.SELF_SIGNED:
        check_thumbprint(credential.certificate, identity.thumbprints)
    else:
        check_issued(credential.certificate, identity.device, authorities)
    return None


def check_thumbprint(certificate: bytes, thumbprints: Collection[str]) -> None:
    """Raise `DeniedError` unless the SHA-1 or SHA-256 of a certificate is one of the thumbprints and it is in force."""
    digests = (hashlib.sha256(certificate).hexdigest().upper(), hashlib.sha1(certificate).hexdigest().upper())  # noqa: S324
    matches = [hmac.compare_digest(digest, each) for digest in digests for each in thumbprints if each]
    if not any(matches):
        raise DeniedError("the certificate's thumbprint is not one of the identity's")
    _check_dates(x509.load_der_x509_certificate(certificate))


def check_issued(certificate: bytes, name: str, authorities: Collection[x509.Certificate]) -> None:
    """Raise `DeniedError` unless an authority issued a certificate with the common name `name`, and it is in force."""
    loaded = x509.load_der_x509_certificate(certificate)
    names = [attribute.value for attribute in loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [name]:
        raise DeniedError(f"the certificate's common name must be {name}, not {', '.join(map(str, names)) or 'empty'}")
    if not any(_issued(loaded, authority) for authority in authorities):
        raise DeniedError("the certificate must be issued by an authority that was uploaded to the hub, but it is not")
    _check_dates(loaded)


def _check_token(identity: Identity, device: Identity, credential: Credential) -> float:
    token = sas.parse(credential.token)
    host, _, path = token.resource.partition("/")
    if host.lower() not in credential.hosts:
        raise DeniedError(f"the token must be for {', '.join(sorted(credential.hosts))}, not for {host}")
    keys: tuple[str, ...] = identity.keys
    if device is not identity and device.authentication is Authentication.SAS and "/modules/" not in path:
        keys = (*keys, *device.keys)
    suffix = f"/modules/{identity.module}" if identity.module else ""
    now = datetime.now(UTC).timestamp()
    sas.check(token, resource=f"{host}/devices/{identity.device}{suffix}", keys=keys, now=now)
    return float(token.expires_at)


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_dates(certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise DeniedError(
            f"the certificate is valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, which is not now"
        )
