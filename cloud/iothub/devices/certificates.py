"""Uploaded certificates: authorities of device certificates, and the self-signed certificates of devices.

The TLS handshake of the hub accepts client certificates that an uploaded certificate verifies. An identity then decides by
thumbprint or by authority (`authentication.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cloud.iothub.refusal import RefusalError, bad_argument
from cloud.iothub.store import Store

_CERTIFICATE = "certificate"


class Certificates:
    """The uploaded certificates of one hub, by thumbprint."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded = {each: x509.load_pem_x509_certificate(pem.encode()) for each, pem in store.documents(_CERTIFICATE).items()}
        self.on_added: Callable[[str], None] = lambda _pem: None
        """Called with the PEM of a new certificate."""

    def pems(self) -> list[str]:
        """Return all certificates as PEM."""
        return [_pem(each) for each in self._loaded.values()]

    def authorities(self) -> list[x509.Certificate]:
        """Return the certificates that may issue others."""
        return [each for each in self._loaded.values() if is_authority(each)]

    def add(self, pem: bytes) -> dict[str, Any]:
        """Add a certificate and return its description; raise `RefusalError` if it is not one."""
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError as error:
            raise bad_argument(f"the body must be a PEM certificate, but it is not: {error}") from error
        self._loaded[thumbprint(certificate)] = certificate
        self._store.put(_CERTIFICATE, thumbprint(certificate), _pem(certificate))
        self.on_added(_pem(certificate))
        return describe(certificate)

    def remove(self, digest: str) -> None:
        """Remove a certificate: it no longer proves an identity. Raise `RefusalError` if there is no such one."""
        if self._loaded.pop(digest, None) is None:
            raise RefusalError(404, "CertificateNotFound", f"the hub has no certificate with the thumbprint {digest[:80]}")
        self._store.delete(_CERTIFICATE, digest)

    def descriptions(self) -> list[dict[str, Any]]:
        """Return the descriptions of all certificates."""
        return [describe(each) for each in self._loaded.values()]


def thumbprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hexadecimal, as IoT Hub writes it."""
    return certificate.fingerprint(hashes.SHA256()).hex().upper()


def is_authority(certificate: x509.Certificate) -> bool:
    """Return True if a certificate may issue others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def describe(certificate: x509.Certificate) -> dict[str, Any]:
    """Return a certificate as JSON."""
    return {
        "thumbprint": thumbprint(certificate),
        "subject": certificate.subject.rfc4514_string(),
        "expiry": certificate.not_valid_after_utc.isoformat(),
        "isAuthority": is_authority(certificate),
    }


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
