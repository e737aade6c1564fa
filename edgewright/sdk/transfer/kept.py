"""Files that an interrupted transfer leaves for the next process: the address of an upload, the received part of a download.

    ~/.cache/edgewright/transfers/upload-<hash>      the address of an unfinished upload at the cloud
    ~/.cache/edgewright/transfers/download-<digest>  the bytes of a blob received so far

`XDG_CACHE_HOME` replaces `~/.cache`. A file is removed when its transfer ends, and after a week without one. Without a folder
that can be written, an interrupted transfer begins again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import EdgewrightError, UnreachableError

KEPT_S = 7 * 86400.0
_DELAYS_S = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Pauses before the repetitions of a request; the restart of a cloud takes a few seconds."""

T = TypeVar("T")


def repeated(action: Callable[[], T]) -> T:
    """Return the result of `action`, which is repeated after a pause while the cloud is not reachable.

    Raises:
        UnreachableError: no repetition reached the cloud, within 15 s.
    """
    for delay_s in _DELAYS_S:
        try:
            return action()
        except UnreachableError:
            time.sleep(delay_s)
    return action()


def folder() -> Path:
    """Return the folder of the files, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "edgewright" / "transfers"


class KeptAddress:
    """The address of an unfinished upload of one blob to one repository of one cloud."""

    def __init__(self, *parts: str) -> None:
        name = wire.digest_of("\0".join(parts).encode()).removeprefix("sha256:")
        self._path = folder() / f"upload-{name}"

    def read(self) -> str | None:
        """Return the address, or None."""
        try:
            return self._path.read_text("utf-8") or None
        except (OSError, ValueError):
            return None

    def write(self, address: str) -> None:
        """Keep the address, if the folder can be written."""
        with contextlib.suppress(OSError, EdgewrightError):
            _prepare()
            write_atomically(self._path, address.encode(), mode=0o600)

    def forget(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def kept_part(digest: str) -> Iterator[tuple[Path, IO[bytes]] | None]:
    """Yield the file with the received part of a blob, opened at its end and locked.

    Yields:
        None if another process receives the same blob, or the folder cannot be written.
    """
    path = folder() / f"download-{digest.removeprefix('sha256:')}"
    try:
        _prepare()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield None
        return
    with os.fdopen(handle, "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        stream.seek(0, os.SEEK_END)
        yield path, stream


def _prepare() -> None:
    """Create the folder, and remove what was left there a week ago."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    oldest = time.time() - KEPT_S
    for each in place.iterdir():
        with contextlib.suppress(OSError):
            if each.stat().st_mtime < oldest:
                each.unlink()
