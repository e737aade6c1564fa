"""Signatures: DSSE envelopes with Ed25519 or ECDSA P-256 keys, over packages and over desired state.

An envelope (https://github.com/secure-systems-lab/dsse, protocol 1.0.2) holds the payload, its type and signatures over
both, so verification needs no re-encoding. A key's id is the SHA-256 of its DER SubjectPublicKeyInfo.

A package's signature binds the index digest to a name, a version and an expiry: the package itself holds no version.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edgewright.contracts import wire
from edgewright.contracts.names import Digest, check_digest, check_instant, check_name
from edgewright.errors import BadInputError, ConflictError, SignatureError, UntrustedKeyError

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

PACKAGE_SIGNATURE_TYPE = "application/vnd.edgewright.package-signature.v1+json"
DESIRED_TYPE = "application/vnd.edgewright.desired.v1+json"
RENEWAL_TYPE = "application/vnd.edgewright.renewal.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSignature:
    """Statement of a publisher: the index with this digest is this version of this model, until it expires."""

    index_digest: str
    model: str
    version: int
    expires_at: datetime

    def __post_init__(self) -> None:
        check_digest(self.index_digest)
        check_name(self.model, "model")
        if self.version < 1:
            raise SignatureError(f"a version must be a whole number from 1, not {self.version}")
        check_instant(self.expires_at, "expires_at")
        if self.expires_at.tzinfo is None:
            raise SignatureError("expires_at must be a timestamp in UTC, not a local time")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeSignature:
    """One signature of an envelope; `sig` is base64."""

    keyid: str
    sig: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A DSSE envelope; `payload` is base64."""

    payload: str
    payloadType: str  # noqa: N815  the field's name in DSSE
    signatures: tuple[EnvelopeSignature, ...]


class TrustedKeys:
    """Trusted public keys, by key id."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys: Mapping[str, PublicKey] = {key_id(key): key for key in keys}

    @classmethod
    def from_pem(cls, pems: Iterable[str | bytes]) -> TrustedKeys:
        """Parse PEM public keys; raise `BadInputError` if any is not a valid public key."""
        return cls(parse_public_key(pem) for pem in pems)

    def __len__(self) -> int:
        return len(self._keys)

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all keys, sorted."""
        return tuple(sorted(self._keys))

    def verify(self, raw_envelope: bytes, payload_type: str) -> bytes:
        """Return the payload of an envelope; raise `SignatureError` unless at least one trusted key signed it."""
        envelope = wire.decode(raw_envelope, Envelope, what="the signature envelope", error=SignatureError)
        if envelope.payloadType != payload_type:
            raise SignatureError(f"the signature must be over {payload_type}, not over {envelope.payloadType}")
        payload = _from_base64(envelope.payload)
        signed = pre_authentication_encoding(payload_type, payload)
        unknown = [signature.keyid[:16] for signature in envelope.signatures if signature.keyid not in self._keys]
        for signature in envelope.signatures:
            key = self._keys.get(signature.keyid)
            if key is not None and _is_valid(key, _from_base64(signature.sig), signed):
                return payload
        if len(unknown) == len(envelope.signatures):
            raise UntrustedKeyError(
                f"the signature must be by a trusted key, but it is by {', '.join(unknown) or 'no key'}; "
                f"trusted: {', '.join(known[:16] for known in self._keys) or 'none'}"
            )
        raise SignatureError("the signature does not match its payload: one of them was changed; do not use it")


def generate_key() -> ed25519.Ed25519PrivateKey:
    """Generate a signing key."""
    return ed25519.Ed25519PrivateKey.generate()


def key_id(key: PublicKey) -> str:
    """Return the SHA-256 of the DER SubjectPublicKeyInfo in hexadecimal."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def public_pem(key: PublicKey) -> str:
    """Return the key as PEM SubjectPublicKeyInfo."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def private_pem(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PEM PKCS#8."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def write_key_pair(path: Path, key: PrivateKey) -> Path:
    """Write the private key to `path` (mode 0600) and the public key to `path` + `.pub`; return the latter's path.

    Raises:
        ConflictError: either file exists; a key is never overwritten.
    """
    public_path = path.with_name(path.name + ".pub")
    for existing in (path, public_path):
        if existing.exists():
            raise ConflictError(f"{existing} exists, and a key is never overwritten: choose another name, or move the old key")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(private_pem(key))
    public_path.write_text(public_pem(key.public_key()), encoding="ascii")
    return public_path


def load_private_key(path: Path) -> PrivateKey:
    """Read a PEM private key; raise `BadInputError` if the file is not an Ed25519 or ECDSA P-256 key."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such key; 'edgewright packages keygen' creates one") from error
    except (ValueError, TypeError) as error:
        raise BadInputError(f"{path}: a signing key must be an unencrypted PEM private key: {error}") from error
    if isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        return key
    raise BadInputError(f"{path}: a signing key must be Ed25519 or ECDSA P-256, not {type(key).__name__}")


def parse_public_key(pem: str | bytes, where: object = "public key") -> PublicKey:
    """Parse a PEM public key; raise `BadInputError` if it is not an Ed25519 or ECDSA P-256 key."""
    raw = pem.encode() if isinstance(pem, str) else pem
    try:
        key = serialization.load_pem_public_key(raw)
    except ValueError as error:
        raise BadInputError(f"{where}: a trusted key must be a PEM public key: {error}") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise BadInputError(f"{where}: a trusted key must be Ed25519 or ECDSA P-256, not {type(key).__name__}")


def load_public_key(path: Path) -> PublicKey:
    """Read a PEM public key from a file; raises what `parse_public_key` raises."""
    try:
        return parse_public_key(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such public key") from error


def sign(payload: bytes, payload_type: str, key: PrivateKey) -> bytes:
    """Return the encoded DSSE envelope of `payload`."""
    signed = pre_authentication_encoding(payload_type, payload)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signed)
    else:
        signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return wire.encode(
        Envelope(
            payload=base64.b64encode(payload).decode("ascii"),
            payloadType=payload_type,
            signatures=(EnvelopeSignature(keyid=key_id(key.public_key()), sig=base64.b64encode(signature).decode("ascii")),),
        )
    )


def sign_package(signature: PackageSignature, key: PrivateKey) -> bytes:
    """Return the envelope with a package signature."""
    return sign(wire.encode(signature), PACKAGE_SIGNATURE_TYPE, key)


def verify_package(raw_envelope: bytes, trusted: TrustedKeys, *, index_digest: Digest, now: datetime) -> PackageSignature:
    """Return the package signature in an envelope.

    Raises:
        SignatureError: no trusted key signed it, it is for another index, or it has expired at `now`.
    """
    payload = trusted.verify(raw_envelope, PACKAGE_SIGNATURE_TYPE)
    signature = wire.decode(payload, PackageSignature, what="the package signature", error=SignatureError)
    if signature.index_digest != index_digest:
        raise SignatureError(f"the signature must be for {index_digest}, but it is for another package, {signature.index_digest}")
    if now >= signature.expires_at:
        raise SignatureError(
            f"the signature of {signature.model}:{signature.version} expired at "
            f"{signature.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: publish the package again"
        )
    return signature


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: the type and the payload, each with its length."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _is_valid(key: PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SignatureError(f"the signature envelope must be in base64: {error}") from error
