"""Files that appear whole or not at all, whenever the power goes: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgewright.errors import NotWritableError, StorageFullError

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


def write_atomically(path: Path, raw: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part; raise `StorageFullError` on a full disk.

    `mode` is cut by the process's file mode mask, as open(2) does it.
    """
    with writing_atomically(path, mode=mode) as stream:
        stream.write(raw)


@contextlib.contextmanager
def writing_atomically(path: Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Give a stream whose bytes appear at `path` when the block ends well, and nowhere otherwise.

    Temporary file, fsync, rename, fsync of the directory: the order that survives a power cut on ext4 and XFS.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as stream:
            try:
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), mode & ~_umask())
                os.fsync(stream.fileno())
                Path(stream.name).replace(path)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise
        _sync_directory(path.parent)
    except OSError as failed:
        _tell_if_full(failed, path)
        _tell_if_refused(failed, path)
        raise


def _tell_if_refused(failed: OSError, path: Path) -> None:
    """Raise `NotWritableError` where the place itself is wrong: no permission, a file among its folders, a folder in its way."""
    if failed.errno in _REFUSALS:
        why = "a file is in the way" if failed.errno in (errno.EEXIST, errno.ENOTDIR) else str(failed.strerror)
        raise NotWritableError(f"{path} cannot be written ({why}): choose another place, or change its permissions") from failed


def _tell_if_full(failed: OSError, path: Path) -> None:
    """Raise `StorageFullError` where a disk, a quota or a limit on files has no room for what is written to `path`."""
    if failed.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StorageFullError(f"no room left to write {path}: free some space and try again") from failed
    if failed.errno == errno.EFBIG:
        raise StorageFullError(
            f"a file of {path} may not grow that large here: raise the limit (ulimit -f) and try again"
        ) from failed


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def staging_beside(target: Path) -> Iterator[Path]:
    """Give a temporary directory on the same file system as `target`, gone afterwards unless it was renamed.

    Raises:
        StorageFullError: the block ran out of room.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failed:
        _tell_if_refused(failed, target)
        raise
    # The name comes first, so that an interrupt between the making of the directory and the next line leaves nothing.
    staging = target.parent / f".{target.name}-{secrets.token_hex(8)}"
    try:
        staging.mkdir()
        yield staging
    except OSError as failed:
        _tell_if_full(failed, target)
        if not staging.exists():  # what fails inside the block is the block's own
            _tell_if_refused(failed, target)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_directory(staging: Path, target: Path) -> None:
    """Put `staging` where `target` is; the old directory is removed only when the new one is in place.

    An interrupt in between puts the old one back; only the death of the process there can leave it under its retired name.
    """
    if not target.exists():
        staging.rename(target)
        return
    retired = target.parent / f".{target.name}-old-{secrets.token_hex(8)}"
    try:
        target.rename(retired)
        staging.rename(target)
    except BaseException:
        if not target.exists():
            retired.rename(target)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _umask() -> int:
    """Return the file mode mask as proc(5) shows it; os.umask could only tell by changing it for every thread."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077
