"""The files of one service, by which its owner and its supervisor communicate.

FOLDER/service.json     the desired service
FOLDER/status.json      its status; the supervisor replaces it after each change
FOLDER/supervisor.lock  locked while a supervisor runs: the kernel unlocks it when the process ends, however it ends
FOLDER/service.log      the output of all server processes, rotated
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import MessageError

T = TypeVar("T")

SOCKET_VARIABLE = "EDGEWRIGHT_LISTEN_FD"
"""Environment variable with the descriptor of the inherited socket (`edgewright.serving.http.server`)."""
READY = b'{"url"'
"""The beginning of the line that `edgewright serve --json` writes when it accepts requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One version of a service: the command of its server processes, and their number."""

    number: int
    command: tuple[str, ...]
    directory: str
    """The working directory."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables in addition to those of the supervisor."""
    replicas: int = 1
    start_timeout_s: float = 300.0
    """Time in which the first server process must be ready."""
    retry_for_s: float = 300.0
    """Time after the first start in which a failed start is tried again."""
    hang_timeout_s: float = 65.0
    """Time without an answer to a probe after which a server process that runs is replaced."""
    drain_timeout_s: float = 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredService:
    """The address of a service and its desired generation."""

    host: str
    port: int
    generation: Generation


class ServiceState(enum.StrEnum):
    """State of the desired generation."""

    STARTING = "starting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # it ran before; no server process is ready at the moment
    FAILED = "failed"  # it never became ready, and is not tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """The status of a service and the identity of its supervisor."""

    pid: int
    nonce: str
    """A random word in the command line of the supervisor: another process that got its id has another one."""
    generation: int
    """The desired generation that the status describes."""
    state: ServiceState
    reason: str = ""
    ready: int = 0
    """Server processes of any generation that accept requests."""
    answering: Generation | None = None
    """The newest generation that was ready: it answers until the desired one is ready, and again after a restart."""
    restarts: int = 0
    """Server processes that ended unexpectedly, since the supervisor started."""


@dataclass(frozen=True, slots=True)
class ServiceFolder:
    """The files of one service."""

    path: Path

    @property
    def log(self) -> Path:
        """The current log file; older ones have a number as suffix."""
        return self.path / "service.log"

    def write_desired(self, desired: DesiredService) -> None:
        """Write the desired service; it may hold secrets in variables, so only its owner may read it."""
        write_atomically(self.path / "service.json", wire.encode(desired), mode=0o600)

    def desired(self) -> DesiredService | None:
        """Return the desired service; None without a file, or with a damaged one."""
        return _read(self.path / "service.json", DesiredService)

    def write_status(self, status: ServiceStatus) -> None:
        """Write the status, unless the folder was removed."""
        if self.path.is_dir():
            write_atomically(self.path / "status.json", wire.encode(status), mode=0o600)

    def status(self) -> ServiceStatus | None:
        """Return the status that the last supervisor wrote; None without one."""
        return _read(self.path / "status.json", ServiceStatus)

    def is_supervised(self) -> bool:
        """Return True while a supervisor runs."""
        try:
            handle = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    @contextmanager
    def supervising(self) -> Iterator[bool]:
        """Hold the lock of the supervisor while the block runs; yield False if another one holds it."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(handle)

    @property
    def _lock(self) -> Path:
        return self.path / "supervisor.lock"


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return wire.decode(path.read_bytes(), kind, what=path.name)
    except (OSError, MessageError):
        return None
