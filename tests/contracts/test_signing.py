from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from edgewright.contracts import signing, wire
from edgewright.contracts.signing import PackageSignature, PrivateKey, TrustedKeys
from edgewright.errors import BadInputError, ConflictError, SignatureError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DIGEST = wire.digest_of(b"an index")
SIGNATURE = PackageSignature(index_digest=DIGEST, model="digits", version=3, expires_at=NOW + timedelta(days=1))


@pytest.fixture(params=["ed25519", "p256"])
def key(request: pytest.FixtureRequest) -> PrivateKey:
    return signing.generate_key() if request.param == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def test_the_signed_bytes_are_the_encoding_of_the_dsse_specification() -> None:
    # The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    encoded = signing.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_signed_package_verifies_with_the_public_key(key: PrivateKey) -> None:
    envelope = signing.sign_package(SIGNATURE, key)
    trusted = TrustedKeys([key.public_key()])
    assert signing.verify_package(envelope, trusted, index_digest=DIGEST, now=NOW) == SIGNATURE


def test_openssl_verifies_our_signature(tmp_path: Path, require: Callable[[str], Path]) -> None:
    key = signing.generate_key()
    envelope = json.loads(signing.sign_package(SIGNATURE, key))
    payload = b64decode(envelope["payload"])
    (tmp_path / "signed").write_bytes(
        b"DSSEv1 %d %s %d %s"
        % (
            len(envelope["payloadType"]),
            envelope["payloadType"].encode(),
            len(payload),
            payload,
        )
    )
    (tmp_path / "signature").write_bytes(b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "key.pub").write_text(signing.public_pem(key.public_key()))
    command = [
        str(require("openssl")),
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pub",
        "-rawin",
        "-in",
        "signed",
        "-sigfile",
        "signature",
    ]
    verified = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert verified.stdout.strip() == "Signature Verified Successfully"


def test_a_signature_by_an_unknown_key_is_rejected_with_both_key_ids(key: PrivateKey) -> None:
    trusted = signing.generate_key().public_key()
    with pytest.raises(SignatureError) as raised:
        signing.verify_package(signing.sign_package(SIGNATURE, key), TrustedKeys([trusted]), index_digest=DIGEST, now=NOW)
    assert str(raised.value) == (
        f"the signature must be by a trusted key, but it is by {signing.key_id(key.public_key())[:16]}; "
        f"trusted: {signing.key_id(trusted)[:16]}"
    )


def test_a_changed_payload_is_rejected(key: PrivateKey) -> None:
    envelope = wire.decode(signing.sign_package(SIGNATURE, key), signing.Envelope, what="envelope")
    other = wire.decode(signing.sign_package(replace(SIGNATURE, version=4), key), signing.Envelope, what="envelope")
    forged = wire.encode(replace(envelope, payload=other.payload))
    with pytest.raises(SignatureError, match="^the signature does not match its payload: one of them was changed"):
        signing.verify_package(forged, TrustedKeys([key.public_key()]), index_digest=DIGEST, now=NOW)


def test_a_signature_over_another_payload_type_is_rejected(key: PrivateKey) -> None:
    envelope = signing.sign(wire.encode(SIGNATURE), signing.DESIRED_TYPE, key)
    with pytest.raises(SignatureError, match="^the signature must be over .*package-signature.*, not over .*desired"):
        signing.verify_package(envelope, TrustedKeys([key.public_key()]), index_digest=DIGEST, now=NOW)


def test_an_expired_signature_is_rejected_with_the_time_and_the_remedy(key: PrivateKey) -> None:
    with pytest.raises(SignatureError) as raised:
        signing.verify_package(
            signing.sign_package(SIGNATURE, key), TrustedKeys([key.public_key()]), index_digest=DIGEST, now=SIGNATURE.expires_at
        )
    assert str(raised.value) == "the signature of digits:3 expired at 2030-01-02 00:00 UTC: publish the package again"


def test_a_signature_of_another_package_is_rejected(key: PrivateKey) -> None:
    other = wire.digest_of(b"another index")
    with pytest.raises(SignatureError, match="^the signature must be for .*, but it is for another package"):
        signing.verify_package(signing.sign_package(SIGNATURE, key), TrustedKeys([key.public_key()]), index_digest=other, now=NOW)


@pytest.mark.parametrize(
    "envelope",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"payload":"!","payloadType":"x","signatures":[]}', id="no base64"),
        pytest.param(
            b'{"payload":"","payloadType":"' + signing.PACKAGE_SIGNATURE_TYPE.encode() + b'","signatures":[]}', id="unsigned"
        ),
    ],
)
def test_an_invalid_envelope_is_rejected(envelope: bytes) -> None:
    with pytest.raises(SignatureError):
        signing.verify_package(envelope, TrustedKeys([signing.generate_key().public_key()]), index_digest=DIGEST, now=NOW)


def test_a_key_pair_is_readable_by_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    key = signing.generate_key()
    public = signing.write_key_pair(tmp_path / "publisher.key", key)
    assert (tmp_path / "publisher.key").stat().st_mode & 0o777 == 0o600
    assert signing.key_id(signing.load_public_key(public)) == signing.key_id(key.public_key())
    assert signing.private_pem(signing.load_private_key(tmp_path / "publisher.key")) == signing.private_pem(key)
    with pytest.raises(ConflictError, match="a key is never overwritten"):
        signing.write_key_pair(tmp_path / "publisher.key", signing.generate_key())


def test_a_key_of_another_kind_is_rejected(tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (tmp_path / "rsa.key").write_bytes(signing.private_pem(rsa_key))  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="a signing key must be Ed25519 or ECDSA P-256, not"):
        signing.load_private_key(tmp_path / "rsa.key")
