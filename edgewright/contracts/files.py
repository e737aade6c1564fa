"""Crash-safe files and directories, and one report of a full disk.

A write goes to a temporary file, which is flushed and renamed; then the directory is flushed. After a power cut the path holds
the old content or the new content, never a part.
"""

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

from edgewright.errors import EdgewrightError, NotWritableError, StorageFullError
from edgewright.steps import temporary

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


def write_atomically(path: Path, raw: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a crash leaves the old content or the new.

    `mode` is reduced by the process's umask, as open(2) does.

    Raises:
        StorageFullError: the disk is full.
        NotWritableError: the path cannot be written.
    """
    with writing_atomically(path, mode=mode) as stream:
        stream.write(raw)


@contextlib.contextmanager
def writing_atomically(path: Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Yield a stream whose bytes appear at `path` when the block succeeds, and nowhere otherwise.

    Temporary file, fsync, rename, fsync of the directory: the order that survives a power cut on ext4 and XFS. A link stays, and
    its target is written.
    """
    path = followed(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise NotWritableError(f"{path} must be a file, but it is a device or a pipe: choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False)  # noqa: SIM115
        with partial as stream, temporary(Path(stream.name)):
            try:
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), mode & ~_umask())
                os.fsync(stream.fileno())
                Path(stream.name).replace(path)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise
        sync_path(path.parent)
    except OSError as error:
        _raise_if_full(error, path)
        _raise_if_not_writable(error, path)
        raise


def followed(path: Path) -> Path:
    """Return the target of a link, which need not exist; any other path as it is."""
    return path.resolve() if path.is_symlink() else path


def sync_path(path: Path) -> None:
    """Flush a file, or the entries of a directory (a rename, a link), so that they survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def reporting_full_disk(subject: str | Path) -> Iterator[None]:
    """Raise `StorageFullError` when the block finds no disk space to write `subject`."""
    try:
        yield
    except Exception as error:
        _raise_if_full(error, subject)
        raise


def is_disk_full(error: BaseException) -> bool:
    """Return True for the error of the operating system, SQLite or PostgreSQL that means a full disk or an exceeded quota.

    SQLite names its error codes in `sqlite_errorname` (Python's sqlite3); 53100 is PostgreSQL's SQLSTATE disk_full.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(error, "sqlstate", "") == "53100"


def _raise_if_full(error: BaseException, subject: str | Path) -> None:
    if getattr(error, "errno", None) == errno.EFBIG:
        raise StorageFullError(
            f"{subject} exceeds the largest permitted file size: raise the limit (ulimit -f) and try again"
        ) from error
    if is_disk_full(error):
        raise StorageFullError(f"not enough disk space to write {subject}: free some space and try again") from error


def _raise_if_not_writable(error: OSError, path: Path) -> None:
    if error.errno in _NOT_WRITABLE:
        reason = "a file is in the way" if error.errno in (errno.EEXIST, errno.ENOTDIR) else str(error.strerror)
        raise NotWritableError(f"{path} cannot be written ({reason}): choose another path, or change its permissions") from error


@contextlib.contextmanager
def staging_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary directory on the file system of `target`; it is removed afterwards unless it was renamed.

    Raises:
        StorageFullError: the block ran out of room.
        NotWritableError: no directory can be made there.
    """
    target = followed(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _raise_if_not_writable(error, target)
        raise
    # The name comes first, so that an interrupt between mkdir and the next line leaves nothing.
    staging = target.parent / f".{target.name}-{secrets.token_hex(8)}"
    with temporary(staging), _removed_afterwards(staging, target):
        yield staging


@contextlib.contextmanager
def _removed_afterwards(staging: Path, target: Path) -> Iterator[None]:
    try:
        staging.mkdir()
        yield
    except EdgewrightError as error:
        error.args = tuple(str(part).replace(staging.name, target.name) for part in error.args)  # the reader knows the target
        raise
    except OSError as error:
        _raise_if_full(error, target)
        if not staging.exists():  # an error inside the block belongs to the block
            _raise_if_not_writable(error, target)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_directory(staging: Path, target: Path) -> None:
    """Move `staging` to `target`; the old directory is removed only when the new one is in place.

    After an interrupt the old one is restored. Only a killed process can leave it under its retired name.
    """
    target = followed(target)
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
    """Return the umask as proc(5) shows it; os.umask reads it only by changing it for all threads."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077
