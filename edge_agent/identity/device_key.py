"""Key and certificate of a device in a credential set: generate, request with a CSR, verify, and switch by one rename.

Enrolment and renewal use it in short-lived processes, because the cryptography library would take a fifth of the agent's memory.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.identity.identity import CERTIFICATE_FILE, CURRENT, KEY_FILE, VALIDITY_FILE, Validity
from edge_agent.storage.failpoints import failpoint
from edgewright.contracts import wire
from edgewright.contracts.files import reporting_full_disk, sync_path, write_atomically
from edgewright.errors import MessageError

Key = ec.EllipticCurvePrivateKey


def generate_key(credentials: Path) -> Key:
    """Generate a key in a credential set, readable only by the agent's user."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with reporting_full_disk("the device's key"):
        credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = credentials / KEY_FILE
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
    return key


def read_key(credentials: Path) -> Key | None:
    """Return the key of a credential set; None if it is missing or damaged."""
    try:
        key = serialization.load_pem_private_key((credentials / KEY_FILE).read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def csr_for(key: Key, device: str) -> str:
    """Return a certificate signing request for a key, as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def store_certificate(credentials: Path, pem: str, *, key: Key, device: str, authority: Path) -> Validity:
    """Verify a certificate and store it in a credential set with its key.

    Raises:
        MessageError: the certificate is not of this authority, or not for this device and key.
    """
    certificate = _verified(pem, key, device, authority)
    validity = Validity(
        not_before=certificate.not_valid_before_utc, not_after=certificate.not_valid_after_utc, obtained_at=datetime.now(UTC)
    )
    write_atomically(credentials / CERTIFICATE_FILE, pem.encode())
    write_atomically(credentials / VALIDITY_FILE, wire.encode(validity))
    return validity


def use_credentials(credentials: Path) -> None:
    """Point `current` to a credential set by one rename."""
    folder = credentials.parent
    with reporting_full_disk("the link to the certificate"):
        link = folder / f".{CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(credentials.name)
        failpoint("certificate.before_rename")
        link.replace(folder / CURRENT)
        sync_path(folder)
    failpoint("certificate.after_rename")


def _verified(pem: str, key: Key, device: str, authority: Path) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise MessageError(f"the cloud must return a certificate of its authority, but it did not: {error}") from error
    names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if certificate.public_key() != key.public_key() or names != [device]:
        raise MessageError(f"the certificate must be for {device} and its key, but it is for {names} or a different key")
    return certificate
