"""Send a blob in chunks (OCI distribution specification 1.1, "Pushing a blob in chunks").

begin     POST, or the upload that an interrupted process left, if the cloud still has it
append    PATCH with Content-Range; after a lost connection, GET asks where the upload ends
finish    PUT with the digest, which the cloud verifies over all bytes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgewright.contracts.oci import Descriptor
from edgewright.errors import BadInputError, NotFoundError, OperationError, UnreachableError
from edgewright.sdk.connection import Connection, Response
from edgewright.sdk.transfer.kept import KeptAddress, repeated

CHUNK_BYTES = 4 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes sent so far and the bytes to send."""

_OUT_OF_ORDER = 416
_RANGE = re.compile(r"0-(\d{1,15})")


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload at the cloud: its address, and the bytes that it has."""

    address: str
    size: int


def has_blob(connection: Connection, name: str, blob: Descriptor) -> bool:
    """Return True if a repository of the cloud has a blob."""
    return connection.request("HEAD", f"/v2/{name}/blobs/{blob.digest}", usable=(404,)).status == 200


def upload(connection: Connection, name: str, blob: Descriptor, path: Path) -> Iterator[int]:
    """Send a file as a blob of a repository; yield the bytes by which the upload grew, those of an earlier process first.

    Raises:
        OperationError: the file changed while it was sent.
        UnreachableError: the cloud was not reachable for 15 s; the next call continues.
    """
    kept = KeptAddress(connection.context.url, name, blob.digest)
    continued = _continued(connection, kept) if blob.size > CHUNK_BYTES else None
    current = continued or _begun(connection, name)
    if continued is None and blob.size > CHUNK_BYTES:
        kept.write(current.address)
    sent = current.size
    if sent:
        yield sent
    with path.open("rb") as stream:
        while current.size < blob.size:
            current = _append(connection, current, stream)
            yield current.size - sent
            sent = current.size
    try:
        _finish(connection, name, blob, current)
    except BadInputError as error:
        kept.forget()
        if continued is None:
            raise OperationError(f"{path} must stay as it is while it is sent, but it changed: try again ({error})") from error
        yield -sent  # what an earlier process sent was damaged, by a power cut for example
        yield from upload(connection, name, blob, path)
    kept.forget()


def _begun(connection: Connection, name: str) -> _Upload:
    path = f"/v2/{name}/blobs/uploads/"
    return _Upload(_location(repeated(lambda: connection.request("POST", path, headers={"Content-Length": "0"}))), 0)


def _continued(connection: Connection, kept: KeptAddress) -> _Upload | None:
    """Return the upload of an earlier process, or None if the cloud has no such upload."""
    address = kept.read()
    if address is None:
        return None
    try:
        return _asked(connection, address)
    except (BadInputError, NotFoundError, OperationError):
        return None


def _asked(connection: Connection, address: str) -> _Upload:
    """Return the state of an upload, as the cloud reports it."""
    response = connection.request("GET", address)
    match = _RANGE.fullmatch(response.headers.get("Range", ""))
    if match is None:
        raise OperationError(f"the registry must return the Range of an upload, but its response {response.status} has none")
    last = int(match[1])
    return _Upload(_location(response), last + 1 if last else 0)  # the range of an upload without a byte is 0-0 as well


def _append(connection: Connection, current: _Upload, stream: IO[bytes]) -> _Upload:
    """Send the next chunk; return the upload with it, or with the part of it that arrived before the connection was lost."""
    is_known = True

    def send() -> _Upload:
        nonlocal is_known
        upload, is_known = current if is_known else _asked(connection, current.address), False
        if upload.size > current.size:
            return upload
        stream.seek(upload.size)
        chunk = stream.read(CHUNK_BYTES)
        if not chunk:
            raise OperationError("a file must stay as it is while it is sent, but it became shorter: try again")
        end = upload.size + len(chunk)
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{upload.size}-{end - 1}"}
        response = connection.request("PATCH", upload.address, body=chunk, headers=headers, usable=(_OUT_OF_ORDER,))
        if response.status == _OUT_OF_ORDER:  # the cloud has not yet seen that the connection before this one was lost
            raise UnreachableError("the upload must continue at its end, but another request writes to it: try again")
        return _Upload(_location(response), end)

    return repeated(send)


def _finish(connection: Connection, name: str, blob: Descriptor, current: _Upload) -> None:
    """Turn the upload into a blob; the repetition of a lost answer finds the blob."""
    is_first = True

    def put() -> None:
        nonlocal is_first
        if is_first or not has_blob(connection, name, blob):
            is_first = False
            connection.request("PUT", current.address, query={"digest": blob.digest}, headers={"Content-Length": "0"})

    repeated(put)


def _location(response: Response) -> str:
    location = response.headers.get("Location")
    if not location:
        raise OperationError(f"the registry must return a Location for an upload, but its response {response.status} has none")
    return location
