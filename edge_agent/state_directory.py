"""The state directory of one agent, held while the agent lives: lock, identity, scoring socket, and a note for `status`.

agent.lock     held by the agent; a second one on the same directory is refused
agent.json     what only the living agent knows: its process, its port, whether it is online
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from edge_agent.drivers.process import end_leftovers
from edge_agent.identity.identity import Identity
from edge_agent.settings import Settings
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import ConflictError, MessageError, StorageFullError

LOCK_FILE = "agent.lock"
NOTE_FILE = "agent.json"
HOST = "127.0.0.1"
BACKLOG = 1024
_LOCK_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the living agent says of itself."""

    pid: int
    port: int
    started_at: datetime
    online: bool = False
    transport: str | None = None
    problem: str = ""
    """Why it is not online."""


class House:
    """A state directory in use."""

    def __init__(self, path: Path, identity: Identity, listening: socket.socket) -> None:
        self.path = path
        self.identity = identity
        self.listening = listening
        self._note = Note(pid=os.getpid(), port=listening.getsockname()[1], started_at=datetime.now(UTC))
        self.describe(online=False, transport=None, problem="not connected yet")

    @property
    def scoring_url(self) -> str:
        """Where this device scores."""
        return f"http://{HOST}:{self._note.port}"

    def describe(self, *, online: bool, transport: str | None, problem: str) -> None:
        """Write the note for `status`; a full disk may lose it."""
        self._note = replace(self._note, online=online, transport=transport, problem="" if online else problem)
        with contextlib.suppress(StorageFullError):
            write_atomically(self.path / NOTE_FILE, wire.encode(self._note))


@contextlib.contextmanager
def entered(path: Path, settings: Settings) -> Iterator[House]:
    """Hold the state directory and the scoring address.

    Raises:
        NotFoundError: the device is not enrolled.
        ConflictError: another agent lives here, or another program has the port.
    """
    identity = Identity.load(path)
    with _locked(path):
        end_leftovers(path / "slots")
        with _listening(settings.port or _last_port(path), fixed=settings.port != 0) as listening:
            yield House(path, identity, listening)


def read_note(path: Path) -> Note | None:
    """Return what the agent last said of itself; None when none ever ran here."""
    try:
        return wire.decode((path / NOTE_FILE).read_bytes(), Note, what=str(path / NOTE_FILE))
    except (OSError, MessageError):
        return None


def is_inhabited(path: Path) -> bool:
    """Tell whether an agent lives in the state directory now."""
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
    """Take the lock; `status` holds it for a moment when it looks, so the first refusal is not believed."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return
    note = read_note(path)
    raise ConflictError(
        f"one agent may live in {path}, but another one does already (process {note.pid if note else 'unknown'}): "
        "end it, or choose another --state directory"
    )


def _last_port(path: Path) -> int:
    """A port that was chosen freely once stays, so that whoever scores here finds it after a restart."""
    note = read_note(path)
    return note.port if note else 0


@contextlib.contextmanager
def _listening(port: int, *, fixed: bool) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as failed:
            if fixed or failed.errno != errno.EADDRINUSE:
                raise _as_conflict(failed, port) from failed
            listening.bind((HOST, 0))
        try:
            listening.listen(BACKLOG)
        except OSError as failed:
            raise _as_conflict(failed, port) from failed
        yield listening


def _as_conflict(failed: OSError, port: int) -> Exception:
    if failed.errno in (errno.EADDRINUSE, errno.EACCES):
        return ConflictError(f"port {port} must be free to score on, but it is not ({failed.strerror}): choose another --port")
    return failed
