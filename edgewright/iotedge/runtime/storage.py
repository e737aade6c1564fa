"""The state directory of a runtime: its instance, the restarts of its modules, and the last deployment of the hub.

A lock keeps a second runtime from the same containers. Mode 0700: the deployment may contain passwords of registries.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, ConflictError
from edgewright.iotedge.runtime.rules import Restarts

_OWNER_ONLY = 0o600
_STATE, _DEPLOYMENT, _INSTANCE = "modules.json", "deployment.json", "instance"


@dataclass(slots=True)
class Memory:
    """The state of modules that containers do not show."""

    restarts: dict[str, Restarts] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    """Modules that the runtime itself has stopped."""


class Storage:
    """The files of one runtime."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def instance(self) -> str:
        """A random text that marks the containers of this runtime."""
        file = self.path / _INSTANCE
        if not file.exists():
            write_atomically(file, secrets.token_hex(8).encode(), mode=_OWNER_ONLY)
        return file.read_text("ascii").strip()

    def load(self) -> Memory:
        """Return the stored state; an unreadable file counts as empty, so restarts count from 0."""
        try:
            document = json.loads((self.path / _STATE).read_bytes())
            restarts = {
                name: Restarts(int(count), None if last is None else datetime.fromisoformat(last))
                for name, (count, last) in document["restarts"].items()
            }
            return Memory(restarts, set(document["held"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Memory()

    def save(self, memory: Memory) -> None:
        """Store the state."""
        restarts = {
            name: (each.count, None if each.last_at is None else each.last_at.isoformat())
            for name, each in memory.restarts.items()
        }
        document = {"restarts": restarts, "held": sorted(memory.held)}
        write_atomically(self.path / _STATE, json.dumps(document).encode(), mode=_OWNER_ONLY)

    def load_deployment(self) -> dict[str, Any] | None:
        """Return the desired properties that were applied last, or None."""
        try:
            document = json.loads((self.path / _DEPLOYMENT).read_bytes())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def save_deployment(self, desired: Mapping[str, Any]) -> None:
        """Store desired properties, so that the modules run after a start without the hub."""
        write_atomically(self.path / _DEPLOYMENT, json.dumps(desired).encode(), mode=_OWNER_ONLY)


@contextmanager
def opened(path: Path) -> Iterator[Storage]:
    """Yield the storage of a state directory, which is locked meanwhile.

    Raises:
        BadInputError: the directory cannot be used.
        ConflictError: another runtime uses it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
    except OSError as error:
        raise BadInputError(f"the state directory {path} must be a directory that you own: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConflictError(
            f"one runtime at most may use {path}, but another one does: stop it, or choose another --state"
        ) from None
    try:
        yield Storage(path)
    finally:
        os.close(lock)
