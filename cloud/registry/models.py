"""Models and their published versions: 1, 2, 3, … per name, never changed and never used twice.

The bytes are pushed to the registry beforehand. Publishing checks that they are all there and that a trusted publisher vouches
for exactly this index, name and version; only then does it give the number, the tag, and the signature as a referrer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import model_versions
from cloud.registry import manifests as oci_manifests
from cloud.registry.blobs import OciStore, RepositoryBlobs
from edgewright.contracts import wire
from edgewright.contracts.messages import ModelVersion, PublishRequest
from edgewright.contracts.names import check_name, nearest
from edgewright.contracts.oci import EMPTY_BLOB, MANIFEST_TYPE, encode_document
from edgewright.contracts.package import Package, read_index, signature_manifest
from edgewright.contracts.signing import Envelope, TrustedKeys, verify_package
from edgewright.errors import ConflictError, NotFoundError, PackageError


@dataclass(frozen=True, slots=True)
class _Checked:
    """A package that may be published, with the signature that says so."""

    package: Package
    envelope: bytes
    key_id: str


def publish(store: OciStore, name: str, request: PublishRequest, trusted: TrustedKeys, now: datetime) -> ModelVersion:
    """Make a pushed index the next version of `name`.

    Raises:
        ConflictError: the version is not the next, something was not pushed, or no trusted key signed exactly this.
    """
    check_name(name, "model")
    try:
        checked = _check(store, name, request, trusted, now)
    except PackageError as refused:
        raise ConflictError(f"{name}:{request.version} cannot be published: {refused}") from refused
    with store.database.transaction() as connection:
        _check_next(connection, name, request.version)
        version = _record(checked, name, request, now)
        row = {"name": name, "version": request.version, "index_digest": version.index.digest, "record": wire.encode(version)}
        connection.execute(insert(model_versions).values(row))
        _attach_signature(connection, store, name, checked)
        oci_manifests.set_tag(connection, name, str(request.version), version.index.digest)
        raise_counter(connection, Counter.CHANGES)
    return version


def newest_versions(connection: Connection) -> list[ModelVersion]:
    """Return the newest version of every model, sorted by name."""
    newest = select(model_versions.c.name, func.max(model_versions.c.version).label("version")).group_by(model_versions.c.name)
    latest = newest.subquery()
    both = (model_versions.c.name == latest.c.name) & (model_versions.c.version == latest.c.version)
    rows = connection.execute(select(model_versions.c.record).join(latest, both)).scalars()
    return sorted((_decode(raw) for raw in rows), key=lambda version: version.name)


def versions_of(connection: Connection, name: str) -> list[ModelVersion]:
    """Return every version of a model, oldest first; raise `NotFoundError` offering the nearest names."""
    mine = select(model_versions.c.record).where(model_versions.c.name == name).order_by(model_versions.c.version)
    found = [_decode(raw) for raw in connection.execute(mine).scalars()]
    if not found:
        known = connection.execute(select(model_versions.c.name).distinct()).scalars()
        raise NotFoundError(f"no model is called {name[:64]!r}{nearest(name, known)}")
    return found


def model_version(connection: Connection, name: str, version: int | None) -> ModelVersion:
    """Return one version of a model, the newest when None; raise `NotFoundError` when there is none such."""
    found = {each.version: each for each in versions_of(connection, name)}
    wanted = max(found) if version is None else version
    if wanted not in found:
        raise NotFoundError(f"model {name} has no version {wanted}; its newest is {max(found)}")
    return found[wanted]


def _check(store: OciStore, name: str, request: PublishRequest, trusted: TrustedKeys, now: datetime) -> _Checked:
    blobs = RepositoryBlobs(store, name)
    package = read_index(blobs, request.index)
    if package.name != name:
        raise PackageError(f"the package is of model {package.name}, not of {name}")
    missing = [blob.digest for blob in package.blobs() if not blobs.has_blob(blob)]
    if missing:
        raise PackageError(f"{len(missing)} of its blobs must be pushed first, such as {missing[0]}")
    envelope = wire.encode(request.envelope)
    signature = verify_package(envelope, trusted, index_digest=package.digest, now=now)
    if (signature.name, signature.version) != (name, request.version):
        raise PackageError(f"the signature is for {signature.name}:{signature.version}")
    keys = [each.keyid for each in wire.decode(envelope, Envelope, what="the envelope").signatures if each.keyid in trusted.ids()]
    return _Checked(package, envelope, keys[0])


def _check_next(connection: Connection, name: str, version: int) -> None:
    mine = select(func.max(model_versions.c.version)).where(model_versions.c.name == name)
    following = (connection.execute(mine).scalar_one() or 0) + 1
    if version != following:
        raise ConflictError(f"the next version of {name} is {following}, not {version}: sign and publish it as {following}")


def _record(checked: _Checked, name: str, request: PublishRequest, now: datetime) -> ModelVersion:
    package = checked.package
    return ModelVersion(
        name=name,
        version=request.version,
        index=request.index,
        published_at=now,
        variants=tuple(variant.config.variant for variant in package.variants),
        size_bytes=package.descriptor.size + sum(blob.size for blob in package.blobs()),
        key_id=checked.key_id,
    )


def _attach_signature(connection: Connection, store: OciStore, name: str, checked: _Checked) -> None:
    manifest = signature_manifest(checked.envelope, checked.package.descriptor)
    store.put(connection, name, EMPTY_BLOB, manifest.config.digest)
    store.put(connection, name, checked.envelope, manifest.layers[0].digest)
    raw = encode_document(manifest)
    reference = wire.digest_of(raw)
    oci_manifests.put(connection, store, repository=name, reference=reference, raw=raw, media_type=MANIFEST_TYPE)


def _decode(raw: bytes) -> ModelVersion:
    return wire.decode(raw, ModelVersion, what="a stored model version")
