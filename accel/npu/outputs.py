"""Check an output path before long work begins: a bitstream takes an hour."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgewright.errors import BadInputError


def check_output(path: Path) -> None:
    """Raise `BadInputError` unless a file, and its missing parent directories, can be created at `path`."""
    if _is(path, Path.is_dir):
        raise BadInputError(f"{path} must be a file to write, but it is a directory; specify a file in it")
    parent = next(parent for parent in path.absolute().parents if _is(parent, Path.exists))
    if not _is(parent, Path.is_dir):
        raise BadInputError(f"{path} must be a file to write, but {parent} is not a directory; choose another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadInputError(f"{path} must be writable, but this user may not write to {parent}; choose another path")


def _is(path: Path, check: Callable[[Path], bool]) -> bool:
    """Return `check(path)`, or False if this user may not enter a directory on the way."""
    try:
        return check(path)
    except PermissionError:
        return False
