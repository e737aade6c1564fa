"""Read the files of a state directory, and refuse a state directory of which one is missing or damaged.

The first start creates the files in the order of `IN_ORDER`. An interrupted first start therefore leaves the first files of this
order, and the next start continues it. A file that is missing while a later one exists was lost. It is never created again:
a new authority or signing key would lock out every device, and a new database would be an empty fleet.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.state.certificates import Key
from edgewright.errors import BadInputError, one_line

DATABASE = "cloud.db"
TOKEN = "operator.token"  # noqa: S105  a file name
AFTER_DATABASE = ("registry", "broker", "client.json")
IN_ORDER = (
    "ca.key",
    "ca.pem",
    "server.key",
    "server.pem",
    "mqtt.key",
    "mqtt.pem",
    "cloud.key",
    TOKEN,
    DATABASE,
    *AFTER_DATABASE,
)
MIN_TOKEN_LENGTH = 16
"""Minimum number of characters of an operator token; the cloud creates tokens of 43."""

_RESTORE = "restore it from a backup of the state directory"
_REPLACE = f"{_RESTORE}, or replace the token with --new-token"


def check_none_lost(path: Path, *, except_for: frozenset[str]) -> None:
    """Raise `BadInputError` if a file is missing, or the database is empty, while a file that is created later exists."""
    present = [name for name in IN_ORDER if (path / name).exists()]
    if not present:
        return
    for name in IN_ORDER[: IN_ORDER.index(present[-1])]:
        if name not in present and name not in except_for and name not in AFTER_DATABASE:
            hint = _REPLACE if name == TOKEN else _RESTORE
            hint += ", or specify the database with --database" if name == DATABASE else ""
            raise BadInputError(f"{path / name} must exist, because {present[-1]} does, but it is missing: {hint}")
    database = path / DATABASE
    if is_established(path) and database.exists() and database.stat().st_size == 0 and DATABASE not in except_for:
        raise BadInputError(f"{database} must not be empty, but it is: {_RESTORE}")


def is_established(path: Path) -> bool:
    """Return True if an earlier start has opened the database."""
    return any((path / name).exists() for name in AFTER_DATABASE)


def read_stored(path: Path, hint: str = _RESTORE) -> bytes:
    """Return the content of a file; raise `BadInputError` if it cannot be read or is empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path} must be readable, but it is not ({error.strerror}): {hint}") from error
    if not content.strip():
        raise BadInputError(f"{path} must not be empty, but it is: {hint}")
    return content


def read_key(path: Path) -> Key:
    """Return the ECDSA key in a file; raise `BadInputError` if the file is not one."""
    try:
        key = serialization.load_pem_private_key(read_stored(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{path} must be a PEM private key, but it is damaged ({one_line(error)}): {_RESTORE}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInputError(f"{path} must be an ECDSA key, but it is of another kind: {_RESTORE}")
    return key


def read_certificate(path: Path, key: Key) -> x509.Certificate:
    """Return the certificate in a file; raise `BadInputError` if the file is not a certificate of `key`."""
    try:
        certificate = x509.load_pem_x509_certificate(read_stored(path))
        public_key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{path} must be a PEM certificate, but it is damaged ({one_line(error)}): {_RESTORE}") from error
    if public_key != key.public_key():
        raise BadInputError(
            f"{path} must be the certificate of {path.stem}.key, but it has a different key: restore both from a backup"
        )
    return certificate


def read_token(path: Path) -> str:
    """Return the operator token in a file; raise `BadInputError` if the file is not one line with a token."""
    token = read_stored(path, _REPLACE).strip()
    if len(token) < MIN_TOKEN_LENGTH or not all(0x21 <= byte <= 0x7E for byte in token):
        raise BadInputError(
            f"{path} must be one line of at least {MIN_TOKEN_LENGTH} printable characters, but it is not: {_REPLACE}"
        )
    return token.decode("ascii")
