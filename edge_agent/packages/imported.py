"""Blobs of an imported package, in place of those of a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge_agent.storage.store import Store
from edgewright.contracts.environments.file_layers import copy_file, place_of
from edgewright.contracts.files import reporting_full_disk
from edgewright.contracts.oci import Descriptor, OciLayout
from edgewright.contracts.package import SIGNATURE_TYPE, signature_entries
from edgewright.errors import PackageError


class PackageSource(Protocol):
    """Origin of a package: a registry, or a package that was imported."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the verified bytes of a small blob or document."""

    def pull(self, descriptor: Descriptor) -> None:
        """Bring a blob into the store and verify it."""

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        """Return the documents that refer to `digest`."""


class ImportedPackage:
    """A package on the device's own disk that is brought into the store; implements `PackageSource`."""

    def __init__(self, path: Path, store: Store) -> None:
        self._layout = OciLayout.open(path)
        self._store = store

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a document, from the store.

        Raises:
            PackageError: the blob is missing or damaged.
        """
        self.pull(descriptor)
        return self._store.read_blob(descriptor)

    def pull(self, descriptor: Descriptor) -> None:
        """Copy a blob into the store if it is missing there.

        Raises:
            PackageError: the blob is missing or damaged.
            StorageFullError: the disk is full.
        """
        self._store.drop_damaged_blob(descriptor)
        if self._store.has_blob(descriptor.digest, descriptor.size):
            return
        blob = self._layout.blob_path(place_of(descriptor)[0])
        if not blob.is_file():
            raise PackageError(f"blob {descriptor.digest} is missing from the imported package: import it again")
        with reporting_full_disk("a blob"), self._store.partial_path(descriptor.digest).open("wb") as stream:
            copy_file(blob, descriptor, stream)
        if not self._store.add_download(descriptor):
            raise PackageError(f"blob {descriptor.digest} of the imported package is damaged: import it again")

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        """Return the signatures in the package; verification compares their subject."""
        return signature_entries(self._layout) if artifact_type == SIGNATURE_TYPE else ()
