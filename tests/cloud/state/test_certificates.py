"""The certificate authority, without connections."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from cloud.state.certificates import Authority, new_key, serial_of, serves
from cloud.state.directory import prepare
from edgewright.errors import BadInputError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create(NOW)


def csr_of(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def test_a_server_certificate_is_valid_for_each_of_its_names(authority: Authority) -> None:
    names = ("localhost", "127.0.0.1", "::1", "cloud.example")
    certificate = authority.issue_server(names, new_key(), NOW)
    verifier = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    assert verifier.build_server_verifier(x509.DNSName("cloud.example")).verify(certificate, [])
    assert serves(certificate, names, NOW)
    assert not serves(certificate, (*names, "other.example"), NOW)
    assert not serves(certificate, names, NOW + timedelta(days=825))


def test_a_device_certificate_is_a_client_certificate_of_the_authority(authority: Authority) -> None:
    certificate = authority.issue_device(csr_of(ed25519.Ed25519PrivateKey.generate()), "press-1", NOW)
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    certificate.verify_directly_issued_by(authority.certificate)
    assert list(uses) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_an_rsa_key_is_refused(authority: Authority) -> None:
    with pytest.raises(BadInputError, match=r"^a device's key must be ECDSA P-256, ECDSA P-384 or Ed25519, not RSAPublicKey$"):
        authority.issue_device(csr_of(rsa.generate_private_key(65537, 2048)), "press-1", NOW)


def test_a_csr_not_signed_by_its_own_key_is_refused(authority: Authority) -> None:
    lines = csr_of(ed25519.Ed25519PrivateKey.generate()).splitlines()
    other = csr_of(ed25519.Ed25519PrivateKey.generate()).splitlines()
    forged = "\n".join([*lines[:-2], other[-2], lines[-1]])  # the last line of the body is the end of the signature
    with pytest.raises(BadInputError, match="the certificate signing request must be signed by its own key"):
        authority.issue_device(forged, "press-1", NOW)


def test_the_revocation_list_contains_exactly_the_revoked_certificates(authority: Authority) -> None:
    certificate = authority.issue_client("press-1", new_key().public_key(), NOW)
    listed = x509.load_pem_x509_crl(authority.revocation_list([(serial_of(certificate), NOW)], NOW))
    assert listed.is_signature_valid(authority.key.public_key())
    assert [revoked.serial_number for revoked in listed] == [certificate.serial_number]


def test_the_server_certificate_is_renewed_before_it_expires_and_the_authority_stays(tmp_path: Path) -> None:
    prepare(tmp_path, (), NOW)
    authority, first = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "server.pem").read_bytes()
    prepare(tmp_path, (), NOW + timedelta(days=100))
    assert (tmp_path / "server.pem").read_bytes() == first
    prepare(tmp_path, (), NOW + timedelta(days=800))
    assert (tmp_path / "server.pem").read_bytes() != first
    assert (tmp_path / "ca.pem").read_bytes() == authority
