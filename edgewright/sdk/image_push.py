"""Push an image of the cloud to another registry: blobs that it lacks, then manifests, then the index under the tag."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import IO

from edgewright.contracts import wire
from edgewright.contracts.environments.images import BILL_TYPE, ImageRecord
from edgewright.contracts.environments.tars import HashingStream
from edgewright.contracts.oci import Descriptor, Index, Manifest, check_bytes
from edgewright.errors import ConflictError, OperationError
from edgewright.registries.client import RegistryClient
from edgewright.registries.referrers import push_referrer
from edgewright.sdk.connection import Connection
from edgewright.sdk.transfer.downloads import ranges

Progress = Callable[[int, int], None]


def push_image(connection: Connection, record: ImageRecord, registry: RegistryClient, *, on_progress: Progress) -> int:
    """Push a built image to the repository of an open client, and return the bytes of the blobs that were sent.

    Raises:
        ConflictError: the image was not built.
        DeniedError: the registry refuses the credentials.
        UnreachableError: the registry does not answer, or its certificate is not trusted.
    """
    if record.index is None:
        raise ConflictError(f"image {record} must be built before it is pushed, but its build is {record.state}")
    raw = fetch_document(connection, record.name, record.index)
    index = wire.decode(raw, Index, what="the index", error=OperationError)
    manifests = [(entry, fetch_document(connection, record.name, entry)) for entry in index.manifests]
    blobs = {blob.digest: blob for _, document in manifests for blob in _blobs_of(document)}
    missing = [blob for blob in blobs.values() if not registry.has_blob(blob.digest) and not registry.mount_blob(blob.digest)]
    total, sent = sum(blob.size for blob in missing), 0
    on_progress(sent, total)
    for blob in missing:
        with tempfile.TemporaryFile() as stream:
            fetch_blob(connection, record.name, blob, stream)
            registry.push_blob(blob, stream)
        sent += blob.size
        on_progress(sent, total)
    for entry, document in manifests:
        registry.push_manifest(document, entry.mediaType, entry.digest)
    registry.push_manifest(raw, record.index.mediaType, registry.image.tag)
    _push_bill(connection, record, registry)
    return sent


def _push_bill(connection: Connection, record: ImageRecord, registry: RegistryClient) -> None:
    """Push the bill of materials."""
    if record.bill is None or record.index is None:
        return
    document = fetch_document(connection, record.name, record.bill)
    for blob in _blobs_of(document):
        if not registry.has_blob(blob.digest):
            with tempfile.TemporaryFile() as stream:
                fetch_blob(connection, record.name, blob, stream)
                registry.push_blob(blob, stream)
    entry = replace(record.bill, artifactType=BILL_TYPE)
    push_referrer(registry, document, entry, record.index.digest)


def fetch_document(connection: Connection, name: str, descriptor: Descriptor) -> bytes:
    """Return the verified bytes of a manifest or index of the cloud."""
    return check_bytes(connection.request("GET", f"/v2/{name}/manifests/{descriptor.digest}").body, descriptor)


def _blobs_of(document: bytes) -> tuple[Descriptor, ...]:
    manifest = wire.decode(document, Manifest, what="a manifest", error=OperationError)
    return (*manifest.layers, manifest.config)


def fetch_blob(connection: Connection, name: str, blob: Descriptor, stream: IO[bytes]) -> None:
    """Write a blob of the cloud to a stream, which is then at its begin; raise `OperationError` if other bytes arrive."""
    hashing = HashingStream(stream)
    for received in ranges(connection, name, blob):
        hashing.write(received)
    if hashing.digest != blob.digest:
        raise OperationError(f"the cloud must send {blob.digest}, but {hashing.digest} was received: try again")
    stream.seek(0)
