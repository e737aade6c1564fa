"""Publish a package: push the missing blobs, sign it for the next version, request that version.

    blobs that the registry lacks     HEAD first, then an upload in chunks
    manifests, then the index         each refers only to blobs that were pushed before
    the index with the source files   if the model was registered, so that one version number covers both
    the signed next version           repeated once if another version was published in between

The version becomes visible in the last step; until then the registry only has blobs under their digests.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edgewright.contracts import package as packages
from edgewright.contracts import wire
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.publishing import PublishRequest
from edgewright.contracts.models.registration import NextVersion, source_digests
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, OciLayout, check_bytes
from edgewright.contracts.package import Package
from edgewright.contracts.signing import PackageSignature, PrivateKey, sign_package
from edgewright.errors import BadInputError, ConflictError, NotFoundError, OperationError
from edgewright.sdk.connection import Connection
from edgewright.sdk.transfer.uploads import Progress, has_blob, upload


def publish(connection: Connection, path: Path, key: PrivateKey, *, valid: timedelta, on_progress: Progress) -> ModelVersion:
    """Publish the package at `path` as the next version of its model.

    Raises:
        PackageError: the package is damaged; nothing was sent.
        ConflictError: the cloud rejects the version.
    """
    if valid <= timedelta(0):
        raise BadInputError(f"the validity of a signature must be positive, not {valid.days} days")
    with packages.opened(path) as layout:
        package = packages.read_package(layout)
        packages.verify_blobs(layout, package)
        push(connection, layout, package, on_progress)
    package = _with_source(connection, package)
    expires_at = (datetime.now(UTC) + valid).replace(microsecond=0)
    version = _next_version(connection, package.name)
    try:
        return _publish_as(connection, package, version, key, expires_at)
    except ConflictError:
        following = _next_version(connection, package.name)
        if following == version:
            raise
        return _publish_as(connection, package, following, key, expires_at)


def push(connection: Connection, layout: OciLayout, package: Package, on_progress: Progress) -> None:
    """Upload all blobs and manifests of a package that the registry lacks."""
    manifests = [blob for blob in package.blobs() if blob.mediaType == MANIFEST_TYPE]
    blobs = [blob for blob in package.blobs() if blob.mediaType != MANIFEST_TYPE]
    missing = [blob for blob in blobs if not has_blob(connection, package.name, blob)]
    total, sent = sum(blob.size for blob in missing), 0
    on_progress(sent, total)
    for blob in missing:
        for size in upload(connection, package.name, blob, layout.blob_path(blob.digest)):
            sent += size
            on_progress(sent, total)
    for manifest in manifests:
        put_manifest(connection, package.name, manifest, layout.read_blob(manifest), MANIFEST_TYPE)
    put_manifest(connection, package.name, package.descriptor, layout.read_blob(package.descriptor), INDEX_TYPE)


def _with_source(connection: Connection, package: Package) -> Package:
    """Return the package with the registered source files that it was made from, by their digest; as it is without any."""
    digest = package.index.annotations.get(packages.SOURCE_DIGEST)
    try:
        registered = [each for each in versions(connection, package.name) if each.files and each.source_version is None]
    except NotFoundError:
        return package
    source = next((each for each in reversed(registered) if digest in source_digests(each.files)), None)
    if source is None:
        return package
    response = connection.request("GET", f"/v2/{package.name}/manifests/{source.index.digest}", headers={"Accept": INDEX_TYPE})
    index = wire.decode(check_bytes(response.body, source.index), Index, what="the index", error=OperationError)
    entry = packages.source_entry(index)
    assert entry is not None, "a version with files has a manifest of them"
    raw = packages.index_with_source(package, entry, source.version)
    descriptor = replace(package.descriptor, digest=wire.digest_of(raw), size=len(raw))
    put_manifest(connection, package.name, descriptor, raw, INDEX_TYPE)
    return replace(package, descriptor=descriptor)


def versions(connection: Connection, name: str) -> tuple[ModelVersion, ...]:
    """Return the published versions of a model, oldest first; raise `NotFoundError` for an unknown model."""
    response = connection.request("GET", f"/v1/models/{name}")
    published = wire.decode(response.body, tuple[ModelVersion, ...], what=f"the versions of {name}", error=OperationError)
    return tuple(sorted(published, key=lambda version: version.version))


def _publish_as(connection: Connection, package: Package, version: int, key: PrivateKey, expires_at: datetime) -> ModelVersion:
    signature = PackageSignature(index_digest=package.digest, model=package.name, version=version, expires_at=expires_at)
    envelope = wire.decode(sign_package(signature, key), dict, what="the signature")
    index = Descriptor(
        mediaType=INDEX_TYPE, digest=package.digest, size=package.descriptor.size, artifactType=package.descriptor.artifactType
    )
    request = PublishRequest(version=version, index=index, envelope=envelope)
    response = connection.request(
        "POST",
        f"/v1/models/{package.name}/versions",
        body=wire.encode(request),
        headers={"Content-Type": "application/json"},
    )
    return wire.decode(response.body, ModelVersion, what="the published version", error=OperationError)


def _next_version(connection: Connection, name: str) -> int:
    response = connection.request("GET", f"/v1/models/{name}/next")
    return wire.decode(response.body, NextVersion, what=f"the next version of {name}", error=OperationError).version


def put_manifest(connection: Connection, name: str, descriptor: Descriptor, raw: bytes, media_type: str) -> None:
    connection.request("PUT", f"/v2/{name}/manifests/{descriptor.digest}", body=raw, headers={"Content-Type": media_type})
