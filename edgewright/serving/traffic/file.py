"""The file of a router: deployments and percentages, read again when it changes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgewright.contracts import wire
from edgewright.errors import EdgewrightError, NotFoundError
from edgewright.serving.traffic.rules import Traffic, Turns


class TrafficFile:
    """The traffic of a service and the turns of its deployments; a file that becomes invalid leaves the last state in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamp_now()
        self.traffic = read_traffic(path)
        self.turns = Turns(self.traffic)

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            with contextlib.suppress(EdgewrightError):
                self.traffic = read_traffic(self._path)
                self.turns = Turns(self.traffic)

    def _stamp_now(self) -> tuple[int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return 0, 0
        return stat.st_ino, stat.st_mtime_ns


def read_traffic(path: Path) -> Traffic:
    """Read the file of a router.

    Raises:
        NotFoundError: the file cannot be read.
        MessageError: the file does not describe a valid traffic.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path} must be a file of 'edgewright endpoints traffic', but it cannot be read: {error.strerror}"
        ) from error
    return wire.decode(raw, Traffic, what=str(path))
