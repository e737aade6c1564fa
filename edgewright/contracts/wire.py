"""Conversion between bytes and types; the only module that imports msgspec.

Decoding ignores unknown fields, so that an old agent works with a newer cloud. Encoding is canonical (sorted keys,
no spaces), so the same value always has the same bytes and the same digest. A signature is checked over the received
bytes, never over a re-encoding.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any, TypeVar

import msgspec

from edgewright.contracts.names import Digest
from edgewright.errors import EdgewrightError, MessageError

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder(order="sorted")
_building = threading.Lock()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Return the decoder of a type, which is built once.

    The lock is needed: while msgspec 0.22 reads the fields of a dataclass, another thread that uses the same class for the first
    time finds them half read, and the process ends by a segmentation fault.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _building:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return decoder


def encode(value: Any) -> bytes:
    """Encode a dataclass or plain value as canonical JSON: UTF-8, sorted keys, no spaces; None fields of dataclasses stay."""
    return _ENCODER.encode(value)


def encode_readable(value: Any) -> bytes:
    """Encode as `encode` does, but with indentation."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def decode(raw: bytes | str, kind: type[T], *, what: str, error: type[EdgewrightError] = MessageError) -> T:
    """Decode JSON into `kind`.

    Raises:
        error: the JSON does not fit; the text names `what` and the path of the invalid field.
    """
    try:
        return _decoder(kind).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as invalid:
        raise error(f"{what} cannot be read: {invalid}") from invalid
    except RecursionError as invalid:
        raise error(f"{what} cannot be read: its JSON is nested too deep") from invalid
    except EdgewrightError as invalid:
        raise error(f"{what} cannot be read: {invalid}") from invalid


def convert(value: Any, kind: type[T], *, what: str, error: type[EdgewrightError] = MessageError) -> T:
    """Convert plain values (from TOML, for example) to `kind`; raise `error` naming `what` if they do not fit."""
    _decoder(kind)
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, EdgewrightError) as invalid:
        raise error(f"{what}: {invalid}") from invalid
    except RecursionError as invalid:
        raise error(f"{what}: the values are nested too deep") from invalid


def to_plain(value: Any) -> Any:
    """Convert dataclasses, enums and timestamps to values that `json.dumps` accepts."""
    return msgspec.to_builtins(value)


def json_schema(*kinds: type) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Return the JSON Schemas of `kinds` and the shared components that they refer to, for the served OpenAPI."""
    return msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")


def digest_of(raw: bytes) -> Digest:
    """Return the SHA-256 digest of `raw` in the form of the OCI image specification."""
    return Digest("sha256:" + hashlib.sha256(raw).hexdigest())
