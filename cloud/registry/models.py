"""Published model versions: numbered 1, 2, 3, … per model, immutable, never reused.

A client pushes the blobs first. Publishing then checks that every blob is stored and that a trusted publisher signed this
index as this version of this model. If both hold, it assigns the number and the tag, and stores the signature as a referrer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import model_aliases, model_versions
from cloud.registry import manifests
from cloud.registry.blobs import BlobStore, RepositoryBlobs
from edgewright.contracts import wire
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.publishing import PublishRequest
from edgewright.contracts.names import check_name, nearest
from edgewright.contracts.oci import EMPTY_BLOB, MANIFEST_TYPE, encode_document
from edgewright.contracts.package import SOURCE_VERSION, Package, read_index, signature_manifest, source_entry
from edgewright.contracts.signing import Envelope, TrustedKeys, verify_package
from edgewright.errors import ConflictError, NotFoundError, PackageError, UntrustedKeyError


@dataclass(frozen=True, slots=True)
class _SignedPackage:
    """A complete package and the verified signature over it."""

    package: Package
    envelope: bytes
    key_id: str


def publish(blobs: BlobStore, model: str, request: PublishRequest, trusted: TrustedKeys, now: datetime) -> ModelVersion:
    """Publish a pushed index as the next version of a model.

    Raises:
        ConflictError: the version is not the next one, a blob is missing, or no trusted key signed this index as this version.
    """
    check_name(model, "model")
    try:
        signed = _verify(blobs, model, request, trusted, now)
    except PackageError as error:
        advice = "; on the cloud's machine, 'edgewright cloud trust KEY.pub' adds a key"
        hint = advice if isinstance(error, UntrustedKeyError) else ""
        raise ConflictError(f"{model}:{request.version} cannot be published: {error}{hint}") from error
    version = _model_version(signed, model, request, now)
    with blobs.database.transaction() as connection:
        assign_alone(connection)
        version = _with_source(connection, version, signed.package)
        _check_is_next(connection, model, request.version)
        row = {
            "model": model,
            "version": request.version,
            "index_digest": version.index.digest,
            "record": wire.encode(version),
            "deleted": False,
        }
        connection.execute(insert(model_versions).values(row))
        _attach_signature(connection, blobs, model, signed)
        manifests.set_tag(connection, model, str(request.version), version.index.digest)
        raise_counter(connection, Counter.CHANGES)
    return version


def newest_versions(connection: Connection) -> list[ModelVersion]:
    """Return the newest version of every model, sorted by model."""
    columns = model_versions.c.model, func.max(model_versions.c.version).label("version")
    newest = select(*columns).where(model_versions.c.deleted.is_(False)).group_by(model_versions.c.model).subquery()
    is_newest = (model_versions.c.model == newest.c.model) & (model_versions.c.version == newest.c.version)
    rows = connection.execute(select(model_versions.c.record).join(newest, is_newest)).scalars()
    return sorted(_with_aliases(connection, map(_decode, rows)), key=lambda version: version.model)


def all_versions(connection: Connection) -> list[ModelVersion]:
    """Return every version of every model, sorted by model and number."""
    order = model_versions.c.model, model_versions.c.version
    rows = connection.execute(select(model_versions.c.record).where(model_versions.c.deleted.is_(False)).order_by(*order))
    return _with_aliases(connection, map(_decode, rows.scalars()))


def list_versions(connection: Connection, model: str) -> list[ModelVersion]:
    """Return every version of a model, oldest first.

    Raises:
        NotFoundError: the model has no version; the message suggests the nearest names.
    """
    of_model = model_versions.c.model == model, model_versions.c.deleted.is_(False)
    records = select(model_versions.c.record).where(*of_model).order_by(model_versions.c.version)
    versions = _with_aliases(connection, map(_decode, connection.execute(records).scalars()))
    if not versions:
        others = select(model_versions.c.model).where(model_versions.c.deleted.is_(False)).distinct()
        raise NotFoundError(f"no model is called {model[:64]!r}{nearest(model, connection.execute(others).scalars())}")
    return versions


def find_version(connection: Connection, model: str, version: int | None) -> ModelVersion:
    """Return one version of a model; None stands for the newest.

    Raises:
        NotFoundError: the model or the version does not exist, or the version was deleted.
    """
    versions = {each.version: each for each in list_versions(connection, model)}
    number = max(versions) if version is None else version
    if number not in versions:
        was_deleted = number < next_version(connection, model) and number > 0
        what = f"version {number} of {model} was deleted" if was_deleted else f"model {model} has no version {number}"
        raise NotFoundError(f"{what}; its newest is {max(versions)}")
    return versions[number]


def next_version(connection: Connection, model: str) -> int:
    """Return the number of the next version of a model; numbers of deleted versions are never reused."""
    newest = select(func.max(model_versions.c.version)).where(model_versions.c.model == model)
    return (connection.execute(newest).scalar_one() or 0) + 1


def _verify(store: BlobStore, model: str, request: PublishRequest, trusted: TrustedKeys, now: datetime) -> _SignedPackage:
    blobs = RepositoryBlobs(store, model)
    package = read_index(blobs, request.index)
    if package.name != model:
        raise PackageError(f"the package is of model {package.name}, not of {model}")
    missing = [blob.digest for blob in package.blobs() if not blobs.has_blob(blob)]
    if missing:
        raise PackageError(f"{len(missing)} of its blobs must be pushed first, such as {missing[0]}")
    envelope = wire.encode(request.envelope)
    signature = verify_package(envelope, trusted, index_digest=package.digest, now=now)
    if (signature.model, signature.version) != (model, request.version):
        raise PackageError(f"the signature is for {signature.model}:{signature.version}")
    signatures = wire.decode(envelope, Envelope, what="the envelope").signatures
    key_id = next(each.keyid for each in signatures if each.keyid in trusted.ids())
    return _SignedPackage(package, envelope, key_id)


def _check_is_next(connection: Connection, model: str, version: int) -> None:
    expected = next_version(connection, model)
    if version != expected:
        raise ConflictError(f"the next version of {model} is {expected}, not {version}: sign and publish it as {expected}")


def _model_version(signed: _SignedPackage, model: str, request: PublishRequest, now: datetime) -> ModelVersion:
    package = signed.package
    return ModelVersion(
        model=model,
        version=request.version,
        index=request.index,
        published_at=now,
        variants=tuple(variant.config.variant for variant in package.variants),
        size_bytes=package.descriptor.size + sum(blob.size for blob in package.blobs()),
        key_id=signed.key_id,
    )


def _with_source(connection: Connection, version: ModelVersion, package: Package) -> ModelVersion:
    """Return a version with the files and facts of the registered version that its index names.

    Raises:
        ConflictError: there is no such version, or its source files are others.
    """
    entry = source_entry(package.index)
    if entry is None:
        return version
    number = entry.annotations.get(SOURCE_VERSION, "")
    is_source = model_versions.c.model == version.model, model_versions.c.deleted.is_(False)
    records = connection.execute(select(model_versions.c.record).where(*is_source)).scalars()
    source = next((each for each in map(_decode, records) if str(each.version) == number), None)
    if source is None or source.source_manifest != entry.digest:
        raise ConflictError(f"{version.model} must have the version {number!r} with the source files that the package names")
    return replace(
        version,
        files=source.files,
        golden=source.golden,
        registration=source.registration,
        source_version=source.version,
        source_manifest=source.source_manifest,
    )


def _attach_signature(connection: Connection, blobs: BlobStore, model: str, signed: _SignedPackage) -> None:
    manifest = signature_manifest(signed.envelope, signed.package.descriptor)
    blobs.put(connection, model, EMPTY_BLOB, manifest.config.digest)
    blobs.put(connection, model, signed.envelope, manifest.layers[0].digest)
    raw = encode_document(manifest)
    reference = wire.digest_of(raw)
    manifests.put(connection, blobs, repository=model, reference=reference, raw=raw, media_type=MANIFEST_TYPE)


def _decode(raw: bytes) -> ModelVersion:
    return wire.decode(raw, ModelVersion, what="a stored model version")


def _with_aliases(connection: Connection, versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """Return versions with their aliases, sorted by name."""
    aliases: dict[tuple[str, int], list[str]] = {}
    for row in connection.execute(select(model_aliases).order_by(model_aliases.c.alias)):
        aliases.setdefault((row.model, row.version), []).append(row.alias)
    return [replace(each, aliases=tuple(aliases.get((each.model, each.version), ()))) for each in versions]
