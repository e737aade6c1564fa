"""The log of a service: lines of all its server processes in one file, rotated and bounded."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_FILE_BYTES = 4 << 20
OLD_FILES = 3
LONGEST_LINE = 16 << 10
"""Characters of a line that are kept."""


def open_log(path: Path) -> Callable[[str], None]:
    """Return a function that appends a line; a full disk loses lines, but never stops the service."""
    handler = _QuietHandler(path, maxBytes=MAX_FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8", errors="replace")

    def write(line: str) -> None:
        handler.handle(logging.LogRecord("service", logging.INFO, "", 0, line[:LONGEST_LINE], None, None))

    return write


class _QuietHandler(RotatingFileHandler):
    """A handler that ignores errors of writing; the base class prints them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name of the base class
        """Ignore the error."""


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last `count` lines of a log, from its older files as well; empty without a log."""
    files = [path.with_name(f"{path.name}.{number}") for number in range(OLD_FILES, 0, -1)] + [path]
    lines: deque[str] = deque(maxlen=count)
    for file in files:
        lines.extend(_lines_of(file))
    return list(lines)


def _lines_of(path: Path) -> Iterable[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
