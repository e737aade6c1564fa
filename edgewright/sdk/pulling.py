"""Pull the package of a version into an OCI layout directory; every byte is verified against its digest."""

from __future__ import annotations

from pathlib import Path

from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, OciLayout, check_bytes
from edgewright.contracts.package import Package, read_index
from edgewright.errors import NotFoundError
from edgewright.sdk.connection import Connection
from edgewright.sdk.transfer.downloads import fetch_blob
from edgewright.sdk.transfer.uploads import Progress


class _Repository:
    """The manifests and configs of a model in the registry, stored in a layout as they are read."""

    def __init__(self, connection: Connection, model: str, layout: OciLayout) -> None:
        self._connection = connection
        self._model = model
        self._layout = layout

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the verified bytes of a document."""
        kind = "manifests" if descriptor.mediaType in (INDEX_TYPE, MANIFEST_TYPE) else "blobs"
        headers = {"Accept": descriptor.mediaType} if kind == "manifests" else None
        response = self._connection.request("GET", f"/v2/{self._model}/{kind}/{descriptor.digest}", headers=headers)
        raw = check_bytes(response.body, descriptor)
        self._layout.write_blob(raw, descriptor.mediaType)
        return raw


def pull_package(connection: Connection, version: ModelVersion, target: Path, *, on_progress: Progress) -> Package:
    """Write the package of a version into a new layout directory.

    Raises:
        NotFoundError: the version holds source files only.
        OperationError: a file that was sent differs from its digest.
    """
    if not version.variants:
        raise NotFoundError(f"{version.model}:{version.version} must hold a package, but only source files are registered")
    layout = OciLayout.create(target)
    package = read_index(_Repository(connection, version.model, layout), version.index)
    missing = [blob for blob in package.blobs() if not layout.has_blob(blob)]
    total, received = sum(blob.size for blob in missing), 0
    for blob in missing:
        fetch_blob(connection, version.model, blob, layout.blob_path(blob.digest))
        received += blob.size
        on_progress(received, total)
    layout.write_index(Index(manifests=(package.descriptor,)))
    return package
