"""The state directory of a cloud, created on its first start and readable by its owner only.

    ca.pem ca.key              the certificate authority
    server.pem server.key      the HTTPS listener and the broker
    mqtt.pem mqtt.key          the cloud's own client certificate on MQTT
    cloud.key                  signs desired state
    operator.token             the credential of operators
    client.json                addresses and paths for clients (protocol.md P70)
    trusted/                   publisher keys, one file per key
    cloud.db                   the database, unless --database names another
    registry/ broker/          blobs; the broker's configuration and retained messages

Each file is written atomically, so the next start completes an interrupted first start. A file that is missing, damaged or of
another cloud beside other state is refused (`stored_files.py`, `identity.py`).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

from cryptography import x509

from cloud.state.certificates import CLOUD_NAME, Authority, Key, certificate_pem, key_pem, new_key, serves
from cloud.state.stored_files import DATABASE, TOKEN, check_none_lost, read_certificate, read_key, read_stored, read_token
from edgewright.contracts import signing
from edgewright.contracts.connection.client_context import CONTEXT_FILE, write_context_file
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, ConflictError, OperationError, one_line

OWNER_ONLY = 0o600
"""File mode of keys, the operator token, and the files that refer to them."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class StateDirectory:
    """A complete state directory; open one with `prepare`."""

    path: Path
    authority: Authority
    signing_key: signing.PrivateKey
    operator_token: str

    def __post_init__(self) -> None:
        assert self.operator_token, "an empty token would make everybody an operator"

    @property
    def ca_file(self) -> Path:
        """Certificate of the authority."""
        return self.path / "ca.pem"

    @property
    def server_files(self) -> tuple[Path, Path]:
        """Certificate and key of the listeners."""
        return self.path / "server.pem", self.path / "server.key"

    @property
    def mqtt_files(self) -> tuple[Path, Path]:
        """Certificate and key of the MQTT client."""
        return self.path / "mqtt.pem", self.path / "mqtt.key"

    @property
    def token_file(self) -> Path:
        """The operator token."""
        return self.path / "operator.token"

    @property
    def client_file(self) -> Path:
        """Path of `client.json`."""
        return self.path / CONTEXT_FILE

    def write_client_context(self, url: str) -> None:
        """Write `client.json` with the address of the cloud."""
        write_context_file(self.client_file, url=url, ca_file=self.ca_file, token_file=self.token_file)

    def publisher_keys(self) -> tuple[str, ...]:
        """Return the trusted publisher keys as PEM."""
        return tuple(path.read_text("ascii") for path in sorted((self.path / "trusted").glob("*.pub")))


def prepare(
    path: Path, names: Iterable[str], now: datetime, *, new_token: bool = False, has_other_database: bool = False
) -> StateDirectory:
    """Open the state directory; the first start creates its files. The server certificate covers `names` and the local names.

    Args:
        path: The state directory.
        names: Host names of this cloud.
        now: The current time.
        new_token: Replace the operator token.
        has_other_database: The database is not in the state directory.

    Raises:
        BadInputError: the directory cannot be created or belongs to another user, or a file is missing or damaged.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve()
        path.chmod(0o700)
        (path / "trusted").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"the state directory {path} must be a directory that you own: {error.strerror}") from error
    not_needed = ({TOKEN} if new_token else set()) | ({DATABASE} if has_other_database else set())
    check_none_lost(path, except_for=frozenset(not_needed))
    for key_file in (path / "trusted").glob("*.pub"):
        signing.load_public_key(key_file)
    authority = _authority(path, now)
    _server_certificate(path, authority, (*_LOCAL_NAMES, socket.gethostname(), *names), now)
    _mqtt_certificate(path, authority, now)
    return StateDirectory(path, authority, _signing_key(path), _operator_token(path, replace=new_token))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the directory against a second cloud while the block runs; the lock ends with the process.

    Raises:
        ConflictError: another cloud uses the directory.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"another cloud uses {path}: stop it first, or choose another --state") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(handle)


def is_running(path: Path) -> bool:
    """Return True if a cloud holds the lock of a state directory."""
    try:
        with (path / "lock").open("rb") as lock:
            return not _lock_is_free(lock.fileno())
    except FileNotFoundError:
        return False


def stop(path: Path, *, timeout_s: float = 30.0) -> bool:
    """Send SIGTERM to the cloud that holds the lock of a state directory, and wait for its end.

    Return False if no cloud holds it.

    Raises:
        OperationError: the cloud is still running after `timeout_s`.
    """
    if not (path / "lock").exists():
        return False
    ends_at = monotonic() + timeout_s
    stopped = False
    with (path / "lock").open("rb") as lock:
        while not _lock_is_free(lock.fileno()):
            holder = int(os.pread(lock.fileno(), 32, 0).strip() or b"0")
            if holder and _end(holder, ends_at - monotonic()):
                stopped = True
            elif monotonic() > ends_at:
                raise OperationError(f"the cloud of {path} must end within {timeout_s:g} s, but process {holder} still runs")
            else:
                sleep(0.02)  # a cloud writes its id after it has taken the lock
    return stopped


def _end(process_id: int, timeout_s: float) -> bool:
    """Send SIGTERM and wait; return False if the process does not exist or does not end in time."""
    try:
        process = os.pidfd_open(process_id)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        return bool(select.select([process], [], [], max(timeout_s, 0.0))[0])
    finally:
        os.close(process)


def _lock_is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(handle, fcntl.LOCK_UN)
    return True


def trust(path: Path, key_file: Path) -> str:
    """Trust a publisher's public key, also in a running cloud; return the key id."""
    key = signing.load_public_key(key_file)
    key_id = signing.key_id(key)
    write_atomically(path / "trusted" / f"{key_id}.pub", signing.public_pem(key).encode("ascii"), mode=OWNER_ONLY)
    return key_id


def _authority(path: Path, now: datetime) -> Authority:
    certificate_file, key_file = path / "ca.pem", path / "ca.key"
    if not certificate_file.exists():
        authority = Authority.create(now)
        write_atomically(key_file, key_pem(authority.key), mode=OWNER_ONLY)
        write_atomically(certificate_file, certificate_pem(authority.certificate), mode=OWNER_ONLY)
    key = read_key(key_file)
    return Authority(read_certificate(certificate_file, key), key)


def _server_certificate(path: Path, authority: Authority, names: Iterable[str], now: datetime) -> None:
    """Issue the certificate, or reissue it for the same key if a name is missing or it expires within 60 days."""
    certificate_file, names = path / "server.pem", tuple(names)
    key = _key(path / "server.key")
    if certificate_file.exists():
        current = _issued_certificate(certificate_file, key, authority)
        if serves(current, names, now + _RENEW_BEFORE):
            return
    write_atomically(certificate_file, certificate_pem(authority.issue_server(names, key, now)), mode=OWNER_ONLY)


def _mqtt_certificate(path: Path, authority: Authority, now: datetime) -> None:
    certificate_file = path / "mqtt.pem"
    key = _key(path / "mqtt.key")
    if certificate_file.exists():
        current = _issued_certificate(certificate_file, key, authority)
        if current.not_valid_after_utc > now + _RENEW_BEFORE:
            return
    certificate = authority.issue_client(CLOUD_NAME, key.public_key(), now, days=3 * 365)
    write_atomically(certificate_file, certificate_pem(certificate), mode=OWNER_ONLY)


def _issued_certificate(certificate_file: Path, key: Key, authority: Authority) -> x509.Certificate:
    certificate = read_certificate(certificate_file, key)
    if not authority.issued(certificate):
        raise BadInputError(
            f"{certificate_file} must be issued by the authority in ca.pem, but it is not: "
            f"restore {certificate_file.name}, {certificate_file.stem}.key and ca.pem from one backup of the state directory"
        )
    return certificate


def _key(path: Path) -> Key:
    if not path.exists():
        write_atomically(path, key_pem(new_key()), mode=OWNER_ONLY)
    return read_key(path)


def _signing_key(path: Path) -> signing.PrivateKey:
    key_file = path / "cloud.key"
    if not key_file.exists():
        write_atomically(key_file, signing.private_pem(signing.generate_key()), mode=OWNER_ONLY)
    read_stored(key_file)
    try:
        return signing.load_private_key(key_file)
    except BadInputError as error:
        raise BadInputError(f"{one_line(error)}: restore it from a backup of the state directory") from error


def _operator_token(path: Path, *, replace: bool) -> str:
    token_file = path / TOKEN
    if replace or not token_file.exists():
        write_atomically(token_file, f"{secrets.token_urlsafe(32)}\n".encode("ascii"), mode=OWNER_ONLY)
    return read_token(token_file)
