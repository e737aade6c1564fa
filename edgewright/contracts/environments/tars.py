"""Deterministic tars, the form of image layers: sorted names, no times, no user names; the same entries give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, link or directory; `source` is a file, the bytes, the target of a link, or None for a directory."""

    path: str
    source: Path | bytes | str | None
    mode: int = 0o644
    owner: int = 0

    def header(self) -> tarfile.TarInfo:
        """Return the tar header."""
        header = tarfile.TarInfo(self.path)
        header.mode, header.uid, header.gid = self.mode, self.owner, self.owner
        if self.source is None:
            header.type = tarfile.DIRTYPE
        elif isinstance(self.source, str):
            header.type, header.linkname = tarfile.SYMTYPE, self.source
        elif isinstance(self.source, bytes):
            header.size = len(self.source)
        else:
            header.size = self.source.stat().st_size
        return header


class HashingStream:
    """A stream that computes the digest and size of what is written through it."""

    def __init__(self, target: IO[bytes] | gzip.GzipFile) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> int:
        """Write a piece."""
        self._hash.update(piece)
        self.size += len(piece)
        self._target.write(piece)
        return len(piece)

    def flush(self) -> None:
        """Write what is buffered."""
        self._target.flush()

    @property
    def digest(self) -> str:
        """SHA-256 digest of everything written so far, in the form of the OCI image specification."""
        return f"sha256:{self._hash.hexdigest()}"


def write_tar(target: HashingStream, entries: Iterable[Entry]) -> None:
    """Write entries and the directories above them; the last of two entries for the same path counts."""
    by_path = {entry.path: entry for entry in entries}
    for path in list(by_path):
        for parent in PurePosixPath(path).parents:
            if parent.parts:
                by_path.setdefault(parent.as_posix(), Entry(path=parent.as_posix(), source=None, mode=0o755))
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in sorted(by_path):
            _add(tar, by_path[path])


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    if isinstance(entry.source, Path):
        with entry.source.open("rb") as stream:
            tar.addfile(entry.header(), stream)
    else:
        tar.addfile(entry.header(), io.BytesIO(entry.source) if isinstance(entry.source, bytes) else None)
