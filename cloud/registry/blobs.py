"""Blobs on disk, by digest: what the registry stores, and uploads on their way to becoming that.

    ROOT/blobs/sha256/<hex>          shared by all repositories; a blob is there whole, or not at all
    ROOT/uploads/<repository>/<id>   begun uploads; a start of the cloud clears them

Bytes go to an upload in pieces, its digest is computed over the finished file, and one rename makes it a blob. Which
repository may show which blob is a row in the database: a repository shows only what was pushed or mounted there.
Manifests, tags and referrers are the work of `oci_manifests.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
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
"""What a registry must take of a manifest, and enough for any package."""
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


class BlobUnknownError(NotFoundError):
    """A blob that this repository does not have."""

    oci_code: ClassVar[str] = "BLOB_UNKNOWN"


class UploadUnknownError(NotFoundError):
    """An upload that was never begun, was finished, or was cleared away."""

    oci_code: ClassVar[str] = "BLOB_UPLOAD_UNKNOWN"


class DigestInvalidError(BadInputError):
    """Bytes whose digest is not the one that was promised."""

    oci_code: ClassVar[str] = "DIGEST_INVALID"


class OutOfOrderError(ConflictError):
    """A piece of an upload that does not begin where the last one ended: 416."""

    oci_code: ClassVar[str] = "BLOB_UPLOAD_INVALID"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class OciStore:
    """Blobs and uploads below one directory."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self.database = database

    def prepare(self) -> None:
        """Make the directories, and clear away what an earlier run had begun and not finished."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._uploads, ignore_errors=True)
        self._uploads.mkdir(parents=True)
        for partial in self._blobs.glob(".partial-*"):
            partial.unlink()

    @property
    def _blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def _uploads(self) -> Path:
        return self.root / "uploads"

    def blob_path(self, repository: str, digest: str) -> Path:
        """Return the file of a blob that `repository` has; raise `BlobUnknownError` when it has none such."""
        check_digest(digest)
        with self.database.reading() as connection:
            if not has_blob(connection, repository, digest):
                raise BlobUnknownError(f"repository {repository} has no blob {digest}: push it first")
        return self.path_of(digest)

    def path_of(self, digest: str) -> Path:
        """Return where the blob of `digest` lies, whether it is there or not."""
        return self._blobs / check_digest(digest).removeprefix("sha256:")

    def mount(self, repository: str, digest: str, source: str | None) -> bool:
        """Show a blob of `source` (of any repository, when None) in `repository` too; False when there is none such."""
        with self.database.transaction() as connection:
            if not has_blob(connection, source, digest):
                return False
            link_blob(connection, repository, digest)
        return True

    def put(self, connection: Connection, repository: str, raw: bytes, digest: str) -> None:
        """Store a small blob whose digest is known to be right."""
        if not self.path_of(digest).is_file():
            write_atomically(self.path_of(digest), raw)
        link_blob(connection, repository, digest)

    def begin_upload(self, repository: str) -> str:
        """Begin an upload and return its id."""
        check_name(repository, "model")
        identity = secrets.token_hex(16)
        path = self._uploads / repository / identity
        with _room_for(path):
            path.parent.mkdir(exist_ok=True)
            path.touch(mode=0o600)
        return identity

    def upload_size(self, repository: str, identity: str) -> int:
        """Return how many bytes of an upload are here."""
        try:
            return self._upload_path(repository, identity).stat().st_size
        except FileNotFoundError as missing:
            raise _no_upload(identity) from missing

    @contextlib.contextmanager
    def continuing(self, repository: str, identity: str, start: int | None) -> Iterator[Upload]:
        """Give the upload to write on, to this writer alone; `start` is where the writer believes that it goes on.

        Raises:
            OutOfOrderError: the upload goes on elsewhere, or somebody else is writing on it.
        """
        path = self._upload_path(repository, identity)
        try:
            stream = path.open("r+b")
        except FileNotFoundError as missing:
            raise _no_upload(identity) from missing
        with stream:
            _lock(stream, path)
            size = stream.seek(0, os.SEEK_END)
            if start is not None and start != size:
                raise OutOfOrderError(f"the next piece of the upload must begin at byte {size}, not at {start}", size)
            yield Upload(path, stream)

    def finish_upload(self, repository: str, identity: str, digest: str) -> None:
        """Make an upload a blob of `repository`; an upload of another digest is thrown away.

        Raises:
            DigestInvalidError: the bytes have another digest.
        """
        path = self._upload_path(repository, identity)
        try:
            found = describe_file(path, "application/octet-stream").digest
        except FileNotFoundError as missing:
            raise _no_upload(identity) from missing
        if found != digest:
            path.unlink(missing_ok=True)
            raise DigestInvalidError(f"the upload must have the digest {digest}, but its bytes have {found}: send it again")
        sync_path(path)
        path.replace(self.path_of(digest))
        sync_path(self._blobs)
        with self.database.transaction() as connection:
            link_blob(connection, repository, digest)

    def cancel_upload(self, repository: str, identity: str) -> None:
        """Throw an upload away."""
        self._upload_path(repository, identity).unlink(missing_ok=True)

    def _upload_path(self, repository: str, identity: str) -> Path:
        check_name(repository, "model")
        if not _UPLOAD_ID.fullmatch(identity):
            raise _no_upload(identity)
        return self._uploads / repository / identity


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is being written on."""

    path: Path
    stream: IO[bytes]

    def write(self, piece: bytes) -> None:
        """Add a piece; raise `StorageFullError`, and throw the upload away, when the disk has no room for it."""
        with _room_for(self.path):
            self.stream.write(piece)
            self.stream.flush()

    def size(self) -> int:
        """Return how many bytes are here."""
        return self.stream.tell()


@dataclass(frozen=True, slots=True)
class RepositoryBlobs:
    """A repository as a source of verified blobs (`edgewright.contracts.oci.BlobSource`)."""

    store: OciStore
    repository: str

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a manifest or config, checked; raise `PackageError` when they are missing, other or too many."""
        if descriptor.size > MAX_DOCUMENT_BYTES:
            raise PackageError(f"a manifest or config must have at most {MAX_DOCUMENT_BYTES} bytes, not {descriptor.size}")
        try:
            path = self.store.blob_path(self.repository, descriptor.digest)
        except NotFoundError as missing:
            raise PackageError(str(missing)) from missing
        with path.open("rb") as stream:
            return check_bytes(stream.read(descriptor.size + 1), descriptor)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the repository has a blob of that digest and size."""
        try:
            return self.store.blob_path(self.repository, descriptor.digest).stat().st_size == descriptor.size
        except NotFoundError:
            return False


def has_blob(connection: Connection, repository: str | None, digest: str) -> bool:
    """Tell whether `repository` (any, when None) has the blob."""
    statement = select(repository_blobs.c.digest).where(repository_blobs.c.digest == digest).limit(1)
    if repository is not None:
        statement = statement.where(repository_blobs.c.repository == repository)
    return connection.execute(statement).one_or_none() is not None


def link_blob(connection: Connection, repository: str, digest: str) -> None:
    """Show a stored blob in `repository`."""
    connection.execute(insert_or_ignore(connection, repository_blobs).values(repository=repository, digest=digest))


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Raise `StorageFullError`, and discard the upload, when the disk has no room for it."""
    try:
        with reporting_full_disk("the upload"):
            yield
    except StorageFullError:
        path.unlink(missing_ok=True)
        raise


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        raise OutOfOrderError("another request is writing on this upload: wait for it", path.stat().st_size) from busy


def _no_upload(identity: str) -> UploadUnknownError:
    return UploadUnknownError(f"no upload is called {identity[:64]!r}: begin another")
