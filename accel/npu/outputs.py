"""Say before the work begins that what comes out of it cannot be written: a bitstream takes an hour."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgewright.errors import BadInputError


def check_output(path: Path) -> None:
    """Raise `BadInputError` unless a file can be made at `path`, with the directories above it that are not there yet."""
    if _is(path, Path.is_dir):
        raise BadInputError(f"{path} must be a file to write, but it is a directory; name a file in it")
    above = next(parent for parent in path.absolute().parents if _is(parent, Path.exists))
    if not _is(above, Path.is_dir):
        raise BadInputError(f"{path} must be a file to write, but {above} is no directory; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise BadInputError(f"{path} cannot be written: this user may not write to {above}; choose another place")


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Ask about a path; what lies in a directory that this user may not enter is nothing to it."""
    try:
        return kind(path)
    except PermissionError:
        return False
