"""Receive a blob in ranges (RFC 9110, section 14) and verify it by its digest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgewright.contracts.files import sync_path, writing_atomically
from edgewright.contracts.oci import TITLE, Descriptor, describe_file
from edgewright.errors import OperationError
from edgewright.sdk.connection import Connection
from edgewright.sdk.transfer.kept import kept_part, repeated
from edgewright.sdk.transfer.uploads import CHUNK_BYTES


def fetch_blob(connection: Connection, name: str, blob: Descriptor, destination: Path) -> None:
    """Write a blob of a repository into a file.

    Raises:
        OperationError: the received bytes have another digest.
        UnreachableError: the cloud was not reachable for 15 s; for a blob of more than 4 MiB, the next call continues.
    """
    if blob.size > CHUNK_BYTES:
        with kept_part(blob.digest) as part:
            if part is not None:
                path, stream = part
                _complete(connection, name, blob, stream)
                _check(path, blob)
                _move(path, destination)
                return
    with writing_atomically(destination) as stream:
        _complete(connection, name, blob, stream)
    _check(destination, blob)


def ranges(connection: Connection, name: str, blob: Descriptor, begin: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a blob from `begin` on; a lost connection is repeated."""
    path = f"/v2/{name}/blobs/{blob.digest}"
    for start in range(begin, blob.size, CHUNK_BYTES):
        headers = {"Range": f"bytes={start}-{min(start + CHUNK_BYTES, blob.size) - 1}"}
        yield repeated(lambda headers=headers: connection.request("GET", path, headers=headers)).body  # type: ignore[misc]


def _complete(connection: Connection, name: str, blob: Descriptor, stream: IO[bytes]) -> None:
    """Append the bytes of a blob that the stream, which is at its end, does not have."""
    if stream.tell() > blob.size:
        stream.seek(0)
        stream.truncate()
    for received in ranges(connection, name, blob, stream.tell()):
        stream.write(received)
    stream.flush()


def _check(path: Path, blob: Descriptor) -> None:
    found = describe_file(path, blob.mediaType)
    if (found.digest, found.size) != (blob.digest, blob.size):
        path.unlink()
        what = blob.annotations.get(TITLE, "a file")
        raise OperationError(f"{what} must have the digest {blob.digest}, but {found.digest} was received: try again")


def _move(path: Path, destination: Path) -> None:
    """Move a complete file, also to another file system."""
    sync_path(path)
    try:
        path.replace(destination)
        sync_path(destination.parent)
    except OSError:
        with path.open("rb") as source, writing_atomically(destination) as stream:
            shutil.copyfileobj(source, stream, CHUNK_BYTES)
        path.unlink()
