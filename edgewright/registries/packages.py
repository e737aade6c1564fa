"""Move a package between a layout directory and a repository of any registry, with its signatures.

Blobs that the other side has are not sent again. Every byte is checked against its digest on the way in and on the way out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from edgewright.contracts import wire
from edgewright.contracts.files import writing_atomically
from edgewright.contracts.oci import Descriptor, Index, Manifest, OciLayout, check_bytes, descriptor_of
from edgewright.contracts.package import PACKAGE_TYPE, SIGNATURE_TYPE, Package, read_package, signature_entries, verify_blobs
from edgewright.errors import BadInputError, PackageError
from edgewright.registries.client import RegistryClient
from edgewright.registries.referrers import push_referrer, referrers

Progress = Callable[[int, int], None]
"""Bytes done and bytes to do."""


def push_package(layout: OciLayout, registry: RegistryClient, *, on_progress: Progress) -> tuple[Package, int]:
    """Push the package of a layout under the tag of an open client; return it and the bytes of the blobs that were sent.

    Raises:
        BadInputError: the reference has a digest in place of a tag.
        PackageError: the layout is damaged or incomplete.
        DeniedError: the registry refuses the credentials.
        UnreachableError: the registry does not answer, or its certificate is not trusted.
    """
    if registry.image.digest:
        raise BadInputError(
            f"a package must be pushed to a tag, not to a digest: {registry.image.host}/{registry.image.repository}:1"
        )
    package = read_package(layout)
    verify_blobs(layout, package)
    signatures = [(entry, _manifest(layout.read_blob(entry))) for entry in signature_entries(layout)]
    signatures = [(entry, each) for entry, each in signatures if each.subject and each.subject.digest == package.digest]
    documents = [*(variant.manifest for variant in package.variants), *(each for _, each in signatures)]
    missing = [blob for blob in _blobs(documents) if not registry.has_blob(blob.digest)]
    sent, total = 0, sum(blob.size for blob in missing)
    on_progress(sent, total)
    for blob in missing:
        with layout.blob_path(blob.digest).open("rb") as stream:
            registry.push_blob(blob, stream)
        sent += blob.size
        on_progress(sent, total)
    for variant in package.variants:
        registry.push_manifest(layout.read_blob(variant.descriptor), variant.descriptor.mediaType, variant.descriptor.digest)
    registry.push_manifest(layout.read_blob(package.descriptor), package.descriptor.mediaType, registry.image.tag)
    for entry, _ in signatures:
        push_referrer(registry, layout.read_blob(entry), replace(entry, artifactType=SIGNATURE_TYPE), package.digest)
    return package, sent


def pull_package(registry: RegistryClient, layout: OciLayout, *, on_progress: Progress) -> Package:
    """Pull the package of a reference, and the signatures that the registry lists for it, into an empty layout.

    Raises:
        NotFoundError: the registry has no such tag or digest.
        PackageError: the reference names something else, or bytes differ from their digests.
        DeniedError: the registry refuses the credentials.
        UnreachableError: the registry does not answer, or its certificate is not trusted.
    """
    raw, media_type = registry.manifest(registry.image.digest or registry.image.tag)
    index = wire.decode(raw, Index, what=f"the index of {registry.image}", error=PackageError)
    if index.artifactType != PACKAGE_TYPE:
        raise PackageError(f"{registry.image} must be a package, but its type is {index.artifactType or media_type}")
    entry = descriptor_of(raw, index.mediaType, artifact_type=PACKAGE_TYPE)
    layout.write_blob(raw, index.mediaType)
    signatures = [each for each in referrers(registry, entry.digest) if each.artifactType == SIGNATURE_TYPE]
    documents = [_fetch_document(registry, layout, each) for each in (*index.manifests, *signatures)]
    missing = [blob for blob in _blobs(documents) if not layout.has_blob(blob)]
    done, total = 0, sum(blob.size for blob in missing)
    on_progress(done, total)
    for blob in missing:
        _fetch_blob(registry, layout, blob)
        done += blob.size
        on_progress(done, total)
    layout.write_index(Index(manifests=(entry, *signatures)))
    package = read_package(layout)
    verify_blobs(layout, package)
    return package


def _blobs(documents: Iterable[Manifest]) -> list[Descriptor]:
    """Return the configs and layers of manifests, each once."""
    return list({blob.digest: blob for each in documents for blob in (each.config, *each.layers)}.values())


def _manifest(raw: bytes) -> Manifest:
    return wire.decode(raw, Manifest, what="a manifest", error=PackageError)


def _fetch_document(registry: RegistryClient, layout: OciLayout, entry: Descriptor) -> Manifest:
    raw = check_bytes(registry.manifest(entry.digest)[0], entry)
    layout.write_blob(raw, entry.mediaType)
    return _manifest(raw)


def _fetch_blob(registry: RegistryClient, layout: OciLayout, blob: Descriptor) -> None:
    hasher, size = hashlib.sha256(), 0
    with writing_atomically(layout.blob_path(blob.digest)) as stream:
        for piece in registry.pieces(blob.digest):
            size += len(piece)
            hasher.update(piece)
            stream.write(piece)
            if size > blob.size:
                break
        if size != blob.size or f"sha256:{hasher.hexdigest()}" != blob.digest:
            raise PackageError(
                f"{registry.image.host} must send the {blob.size} bytes of {blob.digest}, but sent others: try again"
            )
