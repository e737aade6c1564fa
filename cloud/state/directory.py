"""Everything that a cloud keeps on disk, made on its first start and readable by its user only.

    ca.pem ca.key              the certificate authority
    server.pem server.key      the HTTPS listener and the broker
    mqtt.pem mqtt.key          the cloud's own client certificate on MQTT
    cloud.key                  signs desired state
    operator.token             opens the operator's door
    client.json                where clients find all this (protocol.md P70)
    trusted/                   publisher keys, one file per key
    cloud.db                   the database, unless --database names another
    registry/ broker/          blobs; the broker's configuration and memory

Each file appears whole or not at all, so a start that was cut short is simply continued by the next one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.state.certificates import CLOUD_NAME, Authority, Key, certificate_pem, key_pem, new_key, serves
from edgewright.contracts import signing
from edgewright.contracts.client_context import CONTEXT_FILE, write_context_file
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, ConflictError

OWNER_ONLY = 0o600
"""The mode of every file here, whoever writes it: keys, the operator token, and what tells of them."""

_ALWAYS_NAMED = ("localhost", "127.0.0.1", "::1")
_RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class StateDirectory:
    """A state directory that exists and is complete; make one with `prepare`."""

    path: Path
    authority: Authority
    signing_key: signing.PrivateKey
    operator_token: str

    @property
    def ca_file(self) -> Path:
        """The authority's certificate."""
        return self.path / "ca.pem"

    @property
    def server_files(self) -> tuple[Path, Path]:
        """Certificate and key of the listeners."""
        return self.path / "server.pem", self.path / "server.key"

    @property
    def mqtt_files(self) -> tuple[Path, Path]:
        """Certificate and key of the cloud on MQTT."""
        return self.path / "mqtt.pem", self.path / "mqtt.key"

    @property
    def token_file(self) -> Path:
        """The operator token."""
        return self.path / "operator.token"

    @property
    def client_file(self) -> Path:
        """Where clients find this cloud."""
        return self.path / CONTEXT_FILE

    def write_client_context(self, url: str) -> None:
        """Write `client.json` for the address that the cloud answers at."""
        write_context_file(self.client_file, url=url, ca_file=self.ca_file, token_file=self.token_file)

    def publisher_keys(self) -> tuple[str, ...]:
        """Return the PEM of every trusted publisher key."""
        return tuple(path.read_text("ascii") for path in sorted((self.path / "trusted").glob("*.pub")))


def prepare(path: Path, names: Iterable[str], now: datetime) -> StateDirectory:
    """Open the state directory, making what is missing; the server's certificate will cover `names` too."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve()
        path.chmod(0o700)
        (path / "trusted").mkdir(mode=0o700, exist_ok=True)
    except OSError as failed:
        raise BadInputError(f"the state directory {path} must be a directory of your own: {failed.strerror}") from failed
    authority = _authority(path, now)
    _server_certificate(path, authority, (*_ALWAYS_NAMED, socket.gethostname(), *names), now)
    _mqtt_certificate(path, authority, now)
    return StateDirectory(path, authority, _signing_key(path), _operator_token(path))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a second cloud out of the directory while the block runs; the lock ends with the process, however it ends."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise ConflictError(f"another cloud runs on {path}: end it first, or give this one its own --state") from busy
        yield
    finally:
        os.close(handle)


def trust(path: Path, key_file: Path) -> str:
    """Trust a publisher's public key from now on, also in a cloud that runs; return the key's id."""
    key = signing.load_public_key(key_file)
    identity = signing.key_id(key)
    write_atomically(path / "trusted" / f"{identity}.pub", signing.public_pem(key).encode("ascii"), mode=OWNER_ONLY)
    return identity


def _authority(path: Path, now: datetime) -> Authority:
    certificate_file, key_file = path / "ca.pem", path / "ca.key"
    if not certificate_file.exists():
        authority = Authority.create(now)
        write_atomically(key_file, key_pem(authority.key), mode=OWNER_ONLY)
        write_atomically(certificate_file, certificate_pem(authority.certificate), mode=OWNER_ONLY)
    return Authority.from_pem(certificate_file.read_bytes(), key_file.read_bytes())


def _server_certificate(path: Path, authority: Authority, names: Iterable[str], now: datetime) -> None:
    """Make the certificate, or another with the same key when a name is new or the old one ends soon."""
    certificate_file, names = path / "server.pem", tuple(names)
    key = _key(path / "server.key")
    if certificate_file.exists():
        current = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        if serves(current, names, now + _RENEW_BEFORE):
            return
    write_atomically(certificate_file, certificate_pem(authority.issue_server(names, key, now)), mode=OWNER_ONLY)


def _mqtt_certificate(path: Path, authority: Authority, now: datetime) -> None:
    certificate_file = path / "mqtt.pem"
    key = _key(path / "mqtt.key")
    if certificate_file.exists():
        current = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        if current.not_valid_after_utc > now + _RENEW_BEFORE:
            return
    certificate = authority.issue_client(CLOUD_NAME, key.public_key(), now, days=3 * 365)
    write_atomically(certificate_file, certificate_pem(certificate), mode=OWNER_ONLY)


def _key(path: Path) -> Key:
    if not path.exists():
        write_atomically(path, key_pem(new_key()), mode=OWNER_ONLY)
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey), "this key is ours and ECDSA"
    return loaded


def _signing_key(path: Path) -> signing.PrivateKey:
    key_file = path / "cloud.key"
    if not key_file.exists():
        write_atomically(key_file, signing.private_pem(signing.generate_key()), mode=OWNER_ONLY)
    return signing.load_private_key(key_file)


def _operator_token(path: Path) -> str:
    token_file = path / "operator.token"
    if not token_file.exists():
        write_atomically(token_file, f"{secrets.token_urlsafe(32)}\n".encode("ascii"), mode=OWNER_ONLY)
    return token_file.read_text("ascii").strip()
