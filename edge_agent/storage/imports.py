"""Packages that were copied onto the device by `edgewright agent import`.

    imports/<desired_number>/desired.json    the desired state that the import stands for
    imports/<desired_number>/package/        the package, an OCI layout

A folder appears by one rename and is removed when its deployment has ended. The agent fetches from it in place of the registry,
so it verifies the signature and every byte once more.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import reporting_full_disk, sync_path, write_atomically
from edgewright.contracts.messages import IMPORTED_FROM, DesiredState
from edgewright.errors import MessageError

_DESIRED = "desired.json"
_PACKAGE = "package"
_ABANDONED_S = 3600


class Imports:
    """The imported packages of a state directory."""

    def __init__(self, state_directory: Path) -> None:
        self._root = state_directory / "imports"

    def package(self, desired_number: int) -> Path | None:
        """Return the package of an import, an OCI layout directory; None without one."""
        path = self._root / str(desired_number) / _PACKAGE
        return path if path.is_dir() else None

    def numbers(self) -> tuple[int, ...]:
        """Return the desired numbers of all imports, in order."""
        return tuple(sorted(int(path.name) for path in self._root.glob("*") if path.name.isdecimal()))

    def desired(self, desired_number: int) -> DesiredState | None:
        """Return the desired state of an import; None if it is damaged."""
        path = self._root / str(desired_number) / _DESIRED
        try:
            desired = wire.decode(path.read_bytes(), DesiredState, what=str(path))
        except (OSError, MessageError):
            return None
        return desired if desired.desired_number == desired_number else None

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder for a package; it is removed afterwards unless `add` took it.

        Raises:
            StorageFullError: the disk is full.
        """
        with reporting_full_disk("the import"):
            self._root.mkdir(mode=0o700, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self._root, prefix=".staging-"))
            try:
                (folder / _PACKAGE).mkdir()
                yield folder / _PACKAGE
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, package: Path, desired: DesiredState) -> None:
        """Hand the package in a staging folder to the agent, by one rename."""
        with reporting_full_disk("the import"):
            write_atomically(package.parent / _DESIRED, wire.encode(desired))
            package.parent.rename(self._root / str(desired.desired_number))
            sync_path(self._root)

    def next_number(self, highest_accepted: int) -> int:
        """Return an unused number above those of the waiting imports and the highest one that the agent accepted."""
        return max(IMPORTED_FROM - 1, highest_accepted, *self.numbers()) + 1

    def remove(self, desired_number: int) -> None:
        """Remove the package of an import."""
        shutil.rmtree(self._root / str(desired_number), ignore_errors=True)

    def prepare(self) -> None:
        """Remove the staging folders of commands that were killed more than an hour ago."""
        for leftover in self._root.glob(".staging-*"):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(leftover, ignore_errors=True)
