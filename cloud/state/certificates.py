"""The certificate authority of a cloud, which identifies both sides of every TLS connection.

It issues server certificates to the HTTPS listener and the broker, and client certificates to the cloud's MQTT client and the
devices. Only the key of a device's CSR is used; the authority sets the name and the key usage.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewright.errors import BadInputError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
"""Maximum validity that browsers accept from a private authority."""
DEVICE_DAYS = 90
"""Maximum and default validity of a device certificate; an operator may choose a shorter one."""
CLOUD_NAME = "edgewright-cloud"
"""MQTT client name of the cloud, which no device may use."""

_CLOCK_SKEW = timedelta(hours=1)  # a device's clock may be late before its first time synchronisation
_SKEW_SHARE = 24  # limits the backdating of a short-lived certificate to 1/24 of its validity

Key = ec.EllipticCurvePrivateKey
DeviceKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class Authority:
    """Certificate and ECDSA P-256 key of the authority."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def create(cls, now: datetime) -> Authority:
        """Create a new authority."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgewright authority")])
        builder = _builder(name, name, key.public_key(), now=now, days=AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def from_pem(cls, certificate: bytes, key: bytes) -> Authority:
        """Load an authority from PEM files."""
        private_key = serialization.load_pem_private_key(key, password=None)
        assert isinstance(private_key, ec.EllipticCurvePrivateKey), "the authority's key is always ECDSA"
        return cls(x509.load_pem_x509_certificate(certificate), private_key)

    @cached_property
    def pem(self) -> str:
        """The authority's certificate as PEM, the trust anchor of devices and clients."""
        return certificate_pem(self.certificate).decode("ascii")

    def sha256(self) -> str:
        """Return the SHA-256 of the certificate's DER in hexadecimal, as enrolment tokens contain it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue_server(self, names: Iterable[str], key: Key, now: datetime) -> x509.Certificate:
        """Issue a server certificate for these host names and addresses."""
        alternatives = [_general_name(name) for name in dict.fromkeys(names)]
        builder = _builder(
            _common_name("edgewright server"), self.certificate.subject, key.public_key(), now=now, days=SERVER_DAYS
        )
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return self._sign(builder, key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_client(
        self, name: str, key: DeviceKey, now: datetime, days: float = DEVICE_DAYS, *, serial: int | None = None
    ) -> x509.Certificate:
        """Issue a client certificate with the common name `name`; the serial number is random by default."""
        builder = _builder(_common_name(name), self.certificate.subject, key, now=now, days=days, serial=serial)
        return self._sign(builder, key, ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue_device(
        self, csr_pem: str, device: str, now: datetime, days: float = DEVICE_DAYS, *, serial: int | None = None
    ) -> x509.Certificate:
        """Issue a client certificate to `device` for the key of a CSR; the name in the CSR is ignored.

        Raises:
            BadInputError: the CSR cannot be decoded, is not signed by its own key, or has an unsupported type of key.
        """
        return self.issue_client(device, _checked_key(csr_pem), now, days, serial=serial)

    def issued(self, certificate: x509.Certificate) -> bool:
        """Return True if this authority signed the certificate, expired or not."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def secret_for(self, purpose: str) -> bytes:
        """Derive a secret from the authority's key with HKDF, so that all processes of one cloud share it without storing it."""
        raw = self.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return HKDF(hashes.SHA256(), length=32, salt=None, info=f"edgewright {purpose}".encode()).derive(raw)

    def revocation_list(self, revoked: Iterable[tuple[str, datetime]], now: datetime) -> bytes:
        """Return the list of revoked certificates as PEM, for the broker."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - _CLOCK_SKEW).next_update(now + timedelta(days=AUTHORITY_DAYS))
        for serial, revoked_at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(revoked_at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _sign(self, builder: x509.CertificateBuilder, key: DeviceKey, use: x509.ObjectIdentifier) -> x509.Certificate:
        issuer_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def new_key() -> Key:
    """Generate an ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """Return the key as unencrypted PEM."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number in hexadecimal, as the database stores it."""
    return f"{certificate.serial_number:x}"


def serves(certificate: x509.Certificate, names: Iterable[str], until: datetime) -> bool:
    """Return True if a server certificate covers all names and is valid at `until`."""
    covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.not_valid_after_utc > until and all(_general_name(name) in covered for name in names)


def _checked_key(csr_pem: str) -> DeviceKey:
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode("utf-8"))
        key = csr.public_key()
        is_self_signed = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise BadInputError(f"csr_pem must be a PEM certificate signing request: {error}") from error
    if not is_self_signed:
        raise BadInputError("the certificate signing request must be signed by its own key, but the signature does not match")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    raise BadInputError(f"a device's key must be ECDSA P-256, ECDSA P-384 or Ed25519, not {type(key).__name__}")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: DeviceKey, *, now: datetime, days: float, serial: int | None = None
) -> x509.CertificateBuilder:
    validity = timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(now - min(_CLOCK_SKEW, validity / _SKEW_SHARE))
        .not_valid_after(now + validity)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
