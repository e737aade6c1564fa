"""Bytes to types and back, in one place; the only module that knows msgspec.

Decoding ignores fields it does not know, so that an old agent can meet a newer cloud. Encoding is canonical (sorted keys,
no spaces), so the same value always has the same bytes and the same digest. A signature is checked over the bytes that were
received, never over a re-encoding.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from edgewright.contracts.names import Digest
from edgewright.errors import EdgewrightError, MessageError

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder(order="sorted")


def encode(value: Any) -> bytes:
    """Encode a dataclass or plain value as canonical JSON: UTF-8, sorted keys, no spaces; None fields of dataclasses stay."""
    return _ENCODER.encode(value)


def encode_readable(value: Any) -> bytes:
    """Encode as `encode` does, indented for people to read."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def decode(raw: bytes | str, kind: type[T], *, what: str, error: type[EdgewrightError] = MessageError) -> T:
    """Decode JSON into `kind`; raise `error` naming `what` and the path inside it that is wrong."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise error(f"{what} cannot be read: {wrong}") from wrong
    except EdgewrightError as wrong:
        raise error(f"{what} cannot be read: {wrong}") from wrong


def convert(value: Any, kind: type[T], *, what: str, error: type[EdgewrightError] = MessageError) -> T:
    """Check plain values (from TOML, say) into `kind`, strictly: an unknown field is an error of the type's own making."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, EdgewrightError) as wrong:
        raise error(f"{what}: {wrong}") from wrong


def to_plain(value: Any) -> Any:
    """Turn dataclasses, enums and instants into what `json.dumps` takes."""
    return msgspec.to_builtins(value)


def json_schema(*kinds: type) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Return the JSON Schemas of `kinds` and the shared components that they refer to, for the served OpenAPI."""
    return msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")


def digest_of(raw: bytes) -> Digest:
    """Return the SHA-256 digest of `raw` in the form of the OCI image specification."""
    return Digest("sha256:" + hashlib.sha256(raw).hexdigest())
