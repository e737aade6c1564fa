"""Push an image of the cloud to another registry: blobs that it lacks, then manifests, then the index under the tag."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from edgewright.contracts import wire
from edgewright.contracts.environments.images import ImageRecord
from edgewright.contracts.oci import Descriptor, Index, Manifest, check_bytes
from edgewright.errors import ConflictError, OperationError
from edgewright.registries.client import RegistryClient
from edgewright.registries.login import Credentials, stored_credentials
from edgewright.registries.references import ImageReference
from edgewright.sdk.connection import Connection
from edgewright.sdk.pushing import CHUNK_BYTES

Progress = Callable[[int, int], None]


def push_image(
    connection: Connection,
    record: ImageRecord,
    target: ImageReference,
    *,
    credentials: Credentials | None,
    ca_file: Path | None,
    on_progress: Progress,
) -> int:
    """Push a built image and return the bytes of the blobs that were sent.

    Raises:
        ConflictError: the image was not built.
        DeniedError: the registry refuses the credentials.
        UnreachableError: the registry does not answer, or its certificate is not trusted.
    """
    if record.index is None:
        raise ConflictError(f"image {record} must be built before it is pushed, but its build is {record.state}")
    raw = _document(connection, record.name, record.index)
    index = wire.decode(raw, Index, what="the index", error=OperationError)
    manifests = [(entry, _document(connection, record.name, entry)) for entry in index.manifests]
    blobs = {blob.digest: blob for _, document in manifests for blob in _blobs_of(document)}
    with RegistryClient(target, credentials or stored_credentials(target.host), ca_file=ca_file) as registry:
        missing = [blob for blob in blobs.values() if not registry.has_blob(blob.digest)]
        total, sent = sum(blob.size for blob in missing), 0
        on_progress(sent, total)
        for blob in missing:
            with tempfile.TemporaryFile() as stream:
                _fetch(connection, record.name, blob, stream)
                registry.push_blob(blob, stream)
            sent += blob.size
            on_progress(sent, total)
        for entry, document in manifests:
            registry.push_manifest(document, entry.mediaType, entry.digest)
        registry.push_manifest(raw, record.index.mediaType, target.tag)
    return sent


def _document(connection: Connection, name: str, descriptor: Descriptor) -> bytes:
    return check_bytes(connection.request("GET", f"/v2/{name}/manifests/{descriptor.digest}").body, descriptor)


def _blobs_of(document: bytes) -> tuple[Descriptor, ...]:
    manifest = wire.decode(document, Manifest, what="a manifest", error=OperationError)
    return (*manifest.layers, manifest.config)


def _fetch(connection: Connection, name: str, blob: Descriptor, stream: IO[bytes]) -> None:
    for begin in range(0, blob.size, CHUNK_BYTES):
        end = min(begin + CHUNK_BYTES, blob.size) - 1
        headers = {"Range": f"bytes={begin}-{end}"}
        stream.write(connection.request("GET", f"/v2/{name}/blobs/{blob.digest}", headers=headers).body)
    stream.seek(0)
