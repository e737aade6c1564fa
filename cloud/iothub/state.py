"""The state directory of a hub, created on its first start and readable by its owner only.

ca.pem ca.key              the authority of the server certificate; devices and tools verify the hub with ca.pem
server.pem server.key      the listeners
policies.json              the keys of the service API, one per policy
address.json               the address of the running hub, for the commands of this machine
hub.db                     identities, twins, messages and telemetry
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloud.state.certificates import Authority, Key, certificate_pem, key_pem, new_key, serves
from cloud.state.stored_files import read_certificate, read_key, read_stored
from edgewright.contracts.files import write_atomically
from edgewright.contracts.iothub import sas
from edgewright.errors import BadInputError, NotFoundError

OWNER_ONLY = 0o600
OWNER_POLICY = "iothubowner"
POLICIES = (OWNER_POLICY, "service", "registryRead", "registryReadWrite")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class HubState:
    """The prepared state directory of a hub."""

    path: Path
    policies: dict[str, str] = field(repr=False)

    @property
    def ca_file(self) -> Path:
        """The trust anchor of clients."""
        return self.path / "ca.pem"

    @property
    def server_files(self) -> tuple[Path, Path]:
        """Certificate and key of the listeners."""
        return self.path / "server.pem", self.path / "server.key"

    @property
    def database_file(self) -> Path:
        """The database."""
        return self.path / "hub.db"


def prepare(path: Path, names: Iterable[str]) -> HubState:
    """Open a state directory; the first start creates its files. The server certificate covers `names` and the local names.

    Raises:
        BadInputError: the directory cannot be used, or one of its files is damaged.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise BadInputError(f"the state directory {path} must be a directory that you own: {error.strerror}") from error
    _server_certificate(path, _authority(path), (*LOCAL_NAMES, socket.gethostname(), *names))
    return HubState(path, _policies(path))


@dataclass(frozen=True, slots=True)
class HubAddress:
    """The address of a running hub and the key of a policy, by default that of its owner."""

    hostname: str
    mqtt_port: int
    https_host: str
    https_port: int
    ca_file: Path | None
    """None means the system's authorities."""
    key: str = field(repr=False)
    policy: str = OWNER_POLICY


def write_address(state: HubState, *, hostname: str, mqtt_port: int, https_host: str, https_port: int) -> None:
    """Write the address of the running hub."""
    address = {"hostname": hostname, "mqtt_port": mqtt_port, "https_host": https_host, "https_port": https_port}
    write_atomically(state.path / "address.json", json.dumps(address).encode(), mode=OWNER_ONLY)


def read_address(path: Path) -> HubAddress:
    """Return the address of the hub of a state directory; raise `NotFoundError` if it has not been started."""
    try:
        address = json.loads((path / "address.json").read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} must be the state directory of a hub, but it is not: run 'edgewright iothub up' first"
        ) from error
    return HubAddress(**address, ca_file=path / "ca.pem", key=_policies(path)[OWNER_POLICY])


def _authority(path: Path) -> Authority:
    certificate_file, key_file = path / "ca.pem", path / "ca.key"
    if not certificate_file.exists():
        authority = Authority.create(datetime.now(UTC))
        write_atomically(key_file, key_pem(authority.key), mode=OWNER_ONLY)
        write_atomically(certificate_file, certificate_pem(authority.certificate), mode=OWNER_ONLY)
    key = read_key(key_file)
    return Authority(read_certificate(certificate_file, key), key)


def _server_certificate(path: Path, authority: Authority, names: tuple[str, ...]) -> None:
    """Issue the certificate, or issue it again for the same key if a name is missing or it expires within 60 days."""
    certificate_file, now = path / "server.pem", datetime.now(UTC)
    key = _server_key(path / "server.key")
    if certificate_file.exists():
        current = read_certificate(certificate_file, key)
        if authority.issued(current) and serves(current, names, now + _RENEW_BEFORE):
            return
    write_atomically(certificate_file, certificate_pem(authority.issue_server(names, key, now)), mode=OWNER_ONLY)


def _server_key(path: Path) -> Key:
    if not path.exists():
        write_atomically(path, key_pem(new_key()), mode=OWNER_ONLY)
    return read_key(path)


def _policies(path: Path) -> dict[str, str]:
    file = path / "policies.json"
    if not file.exists():
        created = {name: sas.new_key() for name in POLICIES}
        write_atomically(file, json.dumps(created, indent=2).encode(), mode=OWNER_ONLY)
    try:
        keys: dict[str, str] = {name: sas.check_key(json.loads(read_stored(file))[name]) for name in POLICIES}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{file} must hold a key for each of {', '.join(POLICIES)}: restore it from a backup") from error
    return keys
