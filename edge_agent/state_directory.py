"""The state directory of one agent, open while the agent runs: lock, identity, scoring sockets and the agent's own status.

    agent.lock     held by the running agent; a second agent on the same directory is rejected
    agent.json     facts that only the running agent has: its process, its ports and its connection

Each workload has a port of its own, which stays the same after a restart.

The lock also shows other processes whether an agent runs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from edge_agent.drivers.process import stop_orphaned_runners
from edge_agent.identity.identity import Identity
from edge_agent.scoring.addresses import Addresses
from edge_agent.settings import Settings
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import ConflictError, MessageError, StorageFullError

LOCK_FILE = "agent.lock"
STATUS_FILE = "agent.json"
HOST = "127.0.0.1"
BACKLOG = 1024
_LOCK_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStatus:
    """Port and trouble of one workload."""

    port: int
    trouble: str = ""
    """Reason why the version that should run does not; empty while it runs."""
    is_repairing: bool = False
    """True if the trouble is a damaged slot, which is fetched again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """Process, port and connection of a running agent, as stored in `agent.json`."""

    pid: int
    port: int
    started_at: datetime
    online: bool = False
    transport: str | None = None
    problem: str = ""
    """Reason why the agent is offline; empty while it is online."""
    workloads: dict[str, WorkloadStatus] = field(default_factory=dict)
    first: str = ""
    """The workload that answers at paths without the name of one."""


class StateDirectory:
    """An open, locked state directory with its scoring sockets."""

    def __init__(self, path: Path, identity: Identity, server_socket: socket.socket) -> None:
        self.path = path
        self.identity = identity
        self.server_socket = server_socket
        before = read_agent_status(path)
        self.addresses = Addresses(
            server_socket,
            lambda port: _listening_socket(port, fixed=False),
            ports={name: each.port for name, each in before.workloads.items()} if before else {},
            first=before.first if before else "",
            status_file=path / STATUS_FILE,
            changed=self._write_ports,
        )
        self._status = AgentStatus(pid=os.getpid(), port=server_socket.getsockname()[1], started_at=datetime.now(UTC))
        self.write_status(online=False, transport=None, problem="not connected yet")

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, settings: Settings) -> Iterator[StateDirectory]:
        """Lock the state directory and bind the scoring port.

        Raises:
            NotFoundError: the device is not enrolled.
            ConflictError: another agent uses the directory, or another program uses the port.
        """
        identity = Identity.load(path)
        with _locked(path):
            stop_orphaned_runners(path / "slots")
            with _listening_socket(settings.port or _last_port(path), fixed=settings.port != 0) as server_socket:
                yield cls(path, identity, server_socket)

    @property
    def scoring_url(self) -> str:
        """The address at which this device scores."""
        return _url(self._status.port)

    def write_status(self, *, online: bool, transport: str | None, problem: str) -> None:
        """Store the agent's status; a full disk keeps the old one."""
        self._status = replace(self._status, online=online, transport=transport, problem="" if online else problem)
        self._store_status()

    def write_trouble(self, workload: str, trouble: str, is_repairing: bool) -> None:
        """Store the reason why the version of a workload that should run does not."""
        each = replace(self._status.workloads[workload], trouble=trouble, is_repairing=is_repairing)
        self._status = replace(self._status, workloads={**self._status.workloads, workload: each})
        self._store_status()

    def _write_ports(self, ports: dict[str, int], first: str) -> None:
        before = self._status.workloads
        workloads = {name: replace(before.get(name, WorkloadStatus(port=port)), port=port) for name, port in ports.items()}
        self._status = replace(self._status, workloads=workloads, first=first)
        self._store_status()

    def _store_status(self) -> None:
        with contextlib.suppress(StorageFullError):
            write_atomically(self.path / STATUS_FILE, wire.encode(self._status))


def read_agent_status(path: Path) -> AgentStatus | None:
    """Return the last status that an agent stored here; None before the first start."""
    try:
        return wire.decode((path / STATUS_FILE).read_bytes(), AgentStatus, what=str(path / STATUS_FILE))
    except (OSError, MessageError):
        return None


def scoring_url(path: Path) -> str | None:
    """Return the address at which the agent of a state directory scores; None before its first start."""
    status = read_agent_status(path)
    return None if status is None else _url(status.port)


def is_running(path: Path) -> bool:
    """Return True while an agent holds the lock of the state directory."""
    try:
        with (path / LOCK_FILE).open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with (path / LOCK_FILE).open("wb") as stream:
        _lock(stream, path)
        yield


def _lock(stream: IO[bytes], path: Path) -> None:
    """Take the lock; `is_running` holds it for a moment, so retry a few times before giving up."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return
    status = read_agent_status(path)
    raise ConflictError(
        f"only one agent may use {path}, but process {status.pid if status else 'unknown'} already does: "
        "stop it, or choose another --state directory"
    )


def _last_port(path: Path) -> int:
    """Return the port of the previous start, so that an automatically assigned port stays the same after a restart."""
    status = read_agent_status(path)
    return status.port if status else 0


def _listening_socket(port: int, *, fixed: bool) -> socket.socket:
    """Return a socket that listens on `port`, or on a free port if that one is not `fixed` and is taken."""
    server_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server_socket.bind((HOST, port))
        except OSError as error:
            if fixed or error.errno != errno.EADDRINUSE:
                raise _as_conflict(error, port) from error
            server_socket.bind((HOST, 0))
        try:
            server_socket.listen(BACKLOG)
        except OSError as error:
            raise _as_conflict(error, port) from error
    except BaseException:
        server_socket.close()
        raise
    return server_socket


def _as_conflict(error: OSError, port: int) -> Exception:
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        return ConflictError(f"port {port} must be free for scoring, but it is not ({error.strerror}): choose another --port")
    return error


def workload_url(path: Path, workload: str) -> str | None:
    """Return the address at which a workload scores, below the agent's; None before the agent's first start."""
    url = scoring_url(path)
    return None if url is None else f"{url}/w/{workload}"


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"
