"""The blob store of the registry: files named by their digest, and uploads in progress.

    ROOT/blobs/sha256/<hex>          shared by all repositories; a blob is complete or absent
    ROOT/uploads/<repository>/<id>   unfinished uploads, which their clients may continue; removed a day after the last piece

A client appends pieces to an upload. The digest is computed over the finished file, and one rename turns it into a blob.
Rows in the database decide which repository shows which blob: only blobs that were pushed or mounted there.
`manifests.py` handles manifests, tags and referrers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from sqlalchemy import Connection, select

from cloud.db.database import Database, insert_or_ignore
from cloud.db.schema import repository_blobs
from edgewright.contracts.files import reporting_full_disk, sync_path, write_atomically
from edgewright.contracts.names import check_digest, check_name
from edgewright.contracts.oci import Descriptor, check_bytes, describe_file
from edgewright.errors import BadInputError, ConflictError, NotFoundError, PackageError, StorageFullError

MAX_DOCUMENT_BYTES = 4 << 20
"""Maximum size of a manifest or config: the size that the OCI distribution specification asks every registry to accept."""
_MARK_EVERY_S = 60.0
"""A blob that was marked as used more recently is not marked again."""
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


class BlobUnknownError(NotFoundError):
    """A blob that the repository does not have."""

    oci_code: ClassVar[str] = "BLOB_UNKNOWN"


class UploadUnknownError(NotFoundError):
    """An upload that does not exist, is finished, or was removed."""

    oci_code: ClassVar[str] = "BLOB_UPLOAD_UNKNOWN"


class DigestInvalidError(BadInputError):
    """Bytes whose digest differs from the announced one."""

    oci_code: ClassVar[str] = "DIGEST_INVALID"


class OutOfOrderError(ConflictError):
    """A chunk of an upload that does not start at the end of the previous one."""

    http_status: ClassVar[int] = 416
    oci_code: ClassVar[str] = "BLOB_UPLOAD_INVALID"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class BlobStore:
    """Blobs and uploads below one directory."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self.database = database

    def prepare(self) -> None:
        """Make the directories and remove files that an earlier run did not finish; uploads stay."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._uploads.mkdir(parents=True, exist_ok=True)
        for partial in self._blobs.glob(".partial-*"):
            partial.unlink()

    @property
    def _blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def _uploads(self) -> Path:
        return self.root / "uploads"

    def blob_path(self, repository: str, digest: str) -> Path:
        """Return the file of a blob.

        Raises:
            BlobUnknownError: the repository does not have the blob.
        """
        path = self.path_of(digest)
        with self.database.reading() as connection:
            if not has_blob(connection, repository, digest) or not self.mark_used(digest):
                raise BlobUnknownError(f"repository {repository} has no blob {digest}: push it first")
        return path

    def mark_used(self, digest: str) -> bool:
        """Keep a blob for another grace time; return False if it is not stored."""
        path = self.path_of(digest)
        try:
            if time.time() - path.stat().st_mtime > _MARK_EVERY_S:
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def used_since(self, digest: str, since: float) -> bool:
        """Return True if a blob was used after `since`, in seconds since 1970."""
        try:
            return self.path_of(digest).stat().st_mtime > since
        except FileNotFoundError:
            return False

    def stored(self) -> list[Path]:
        """Return the files of all blobs, shown by a repository or not."""
        return sorted(path for path in self._blobs.iterdir() if not path.name.startswith("."))

    def remove_unshown(self, path: Path, since: float) -> int | None:
        """Remove the file of a blob that no repository shows and that was not used after `since`; return its size in bytes.

        Returns:
            None if the file stays.
        """
        with self._locked(fcntl.LOCK_EX), self.database.reading() as connection:
            try:
                stat = path.stat()
            except FileNotFoundError:
                return None
            if stat.st_mtime > since or has_blob(connection, None, f"sha256:{path.name}"):
                return None
            path.unlink()
            return stat.st_size

    def remove_uploads(self, since: float) -> None:
        """Remove uploads that received nothing after `since`."""
        for path in self._uploads.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= since:
                    path.unlink()

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the lock of the files: shared to store one and show it, exclusive to remove one that no repository shows."""
        with (self.root / "lock").open("a") as stream:
            fcntl.flock(stream, kind)
            yield

    def path_of(self, digest: str) -> Path:
        """Return the path of a blob, stored or not."""
        return self._blobs / check_digest(digest).removeprefix("sha256:")

    def mount(self, repository: str, digest: str, source: str | None) -> bool:
        """Show a blob of repository `source` in `repository` too; None stands for any source.

        Returns:
            False if the source does not have the blob.
        """
        with self._locked(fcntl.LOCK_SH), self.database.transaction() as connection:
            if not has_blob(connection, source, digest) or not self.mark_used(digest):
                return False
            link_blob(connection, repository, digest)
        return True

    def put(self, connection: Connection, repository: str, raw: bytes, digest: str) -> None:
        """Store a small blob; the caller has computed `digest` from `raw`.

        The file is new or marked as used, so it stays until the caller's transaction shows it.
        """
        with self._locked(fcntl.LOCK_SH):
            if not self.mark_used(digest):
                write_atomically(self.path_of(digest), raw)
            link_blob(connection, repository, digest)

    def begin_upload(self, repository: str) -> str:
        """Begin an upload and return its id."""
        check_name(repository, "model")
        upload_id = secrets.token_hex(16)
        path = self._uploads / repository / upload_id
        with _removed_if_full(path):
            path.parent.mkdir(exist_ok=True)
            path.touch(mode=0o600)
        return upload_id

    def upload_size(self, repository: str, upload_id: str) -> int:
        """Return the number of bytes that an upload has received."""
        try:
            return self._upload_path(repository, upload_id).stat().st_size
        except FileNotFoundError as error:
            raise _unknown_upload(upload_id) from error

    @contextlib.contextmanager
    def continuing(self, repository: str, upload_id: str, start: int | None) -> Iterator[Upload]:
        """Open an upload for appending, locked against other writers; `start` is the offset that the client announced.

        Raises:
            OutOfOrderError: the upload ends at another offset, or another request is writing to it.
        """
        path = self._upload_path(repository, upload_id)
        try:
            stream = path.open("r+b", buffering=0)  # a buffer would be written again on close, and fail again on a full disk
        except FileNotFoundError as error:
            raise _unknown_upload(upload_id) from error
        with stream:
            _lock(stream, path)
            size = stream.seek(0, os.SEEK_END)
            if start is not None and start != size:
                raise OutOfOrderError(f"the next chunk of the upload must begin at byte {size}, not at {start}", size)
            yield Upload(path, stream)

    def finish_upload(self, repository: str, upload_id: str, digest: str) -> None:
        """Turn an upload into a blob of `repository`.

        Raises:
            DigestInvalidError: the bytes have another digest; the upload is removed.
        """
        path = self._upload_path(repository, upload_id)
        try:
            actual = describe_file(path, "application/octet-stream").digest
        except FileNotFoundError as error:
            raise _unknown_upload(upload_id) from error
        if actual != digest:
            path.unlink(missing_ok=True)
            raise DigestInvalidError(f"the upload must have the digest {digest}, but its bytes have {actual}: send it again")
        sync_path(path)
        with self._locked(fcntl.LOCK_SH):
            os.utime(path)  # a slow upload received its last piece before the grace time
            path.replace(self.path_of(digest))
            sync_path(self._blobs)
            with self.database.transaction() as connection:
                link_blob(connection, repository, digest)

    def cancel_upload(self, repository: str, upload_id: str) -> None:
        """Remove an upload."""
        self._upload_path(repository, upload_id).unlink(missing_ok=True)

    def _upload_path(self, repository: str, upload_id: str) -> Path:
        check_name(repository, "model")
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise _unknown_upload(upload_id)
        return self._uploads / repository / upload_id


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is open for appending."""

    path: Path
    stream: IO[bytes]

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            StorageFullError: the disk is full; the upload is removed.
        """
        remaining = memoryview(piece)
        with _removed_if_full(self.path):
            while remaining:
                remaining = remaining[self.stream.write(remaining) :]

    def size(self) -> int:
        """Return the number of bytes received so far."""
        return self.stream.tell()


@dataclass(frozen=True, slots=True)
class RepositoryBlobs:
    """A repository as a source of verified blobs (`edgewright.contracts.oci.BlobSource`)."""

    store: BlobStore
    repository: str

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a manifest or config.

        Raises:
            PackageError: the blob is missing, is too large, or does not match its descriptor.
        """
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise PackageError(f"a manifest or config must have at most {MAX_DOCUMENT_BYTES} bytes, not {descriptor.size}")
        try:
            path = self.store.blob_path(self.repository, descriptor.digest)
        except NotFoundError as error:
            raise PackageError(str(error)) from error
        with path.open("rb") as stream:
            return check_bytes(stream.read(descriptor.size + 1), descriptor)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Return True if the repository has a blob of this digest and size."""
        try:
            return self.store.blob_path(self.repository, descriptor.digest).stat().st_size == descriptor.size
        except NotFoundError:
            return False


def has_blob(connection: Connection, repository: str | None, digest: str) -> bool:
    """Return True if `repository` has the blob; None stands for any repository."""
    statement = select(repository_blobs.c.digest).where(repository_blobs.c.digest == digest).limit(1)
    if repository is not None:
        statement = statement.where(repository_blobs.c.repository == repository)
    return connection.execute(statement).one_or_none() is not None


def link_blob(connection: Connection, repository: str, digest: str) -> None:
    """Show a stored blob in `repository`."""
    connection.execute(insert_or_ignore(connection, repository_blobs).values(repository=repository, digest=digest))


@contextlib.contextmanager
def _removed_if_full(path: Path) -> Iterator[None]:
    """Remove the upload and raise `StorageFullError` if the disk is full."""
    try:
        with reporting_full_disk("the upload"):
            yield
    except StorageFullError:
        path.unlink(missing_ok=True)
        raise


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutOfOrderError("another request is writing to this upload: wait for it", path.stat().st_size) from error


def _unknown_upload(upload_id: str) -> UploadUnknownError:
    return UploadUnknownError(f"no upload is called {upload_id[:64]!r}: begin another")
