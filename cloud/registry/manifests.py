"""Manifests, tags and referrers of the registry (OCI distribution specification 1.1).

A manifest is a blob. It is accepted only if the repository already has everything that it refers to, so every manifest that
can be pulled is complete. The tag of a published version is set by the cloud and never moves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlalchemy import Connection, Row, insert, select, update

from cloud.db.database import insert_or_ignore
from cloud.db.schema import manifests, model_versions, tags
from cloud.registry.blobs import BlobStore, DigestInvalidError, has_blob
from edgewright.contracts import wire
from edgewright.contracts.names import Digest, check_name
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index
from edgewright.errors import BadInputError, ConflictError, NotFoundError

_DOCKER_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_KNOWN_TYPES = (MANIFEST_TYPE, INDEX_TYPE, *_DOCKER_TYPES)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class ManifestUnknownError(NotFoundError):
    """A tag or digest that the repository does not have."""

    oci_code: ClassVar[str] = "MANIFEST_UNKNOWN"


class ManifestInvalidError(BadInputError):
    """A manifest that cannot be decoded or has an unsupported media type."""

    oci_code: ClassVar[str] = "MANIFEST_INVALID"


class ManifestBlobUnknownError(BadInputError):
    """A manifest that refers to a blob or manifest that the repository does not have."""

    oci_code: ClassVar[str] = "MANIFEST_BLOB_UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """The stored digest, media type and size (bytes) of a manifest."""

    digest: Digest
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedManifest:
    """The digest of a pushed manifest, and the digest of its subject."""

    digest: Digest
    subject: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """The fields shared by OCI and Docker manifests and indexes."""

    schemaVersion: int  # noqa: N815
    mediaType: str | None = None  # noqa: N815
    artifactType: str | None = None  # noqa: N815
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = field(default_factory=dict)


def put(
    connection: Connection, blobs: BlobStore, *, repository: str, reference: str, raw: bytes, media_type: str
) -> PushedManifest:
    """Store a manifest under its digest and, if `reference` is a tag, under that tag.

    Raises:
        ManifestInvalidError: the bytes are not a manifest, or their media type differs from `media_type`.
        DigestInvalidError: `reference` is a digest and the bytes have another.
        ManifestBlobUnknownError: a blob or manifest that it refers to is not in the repository.
        ConflictError: `reference` is the tag of a published version.
    """
    check_name(repository, "model")
    digest = wire.digest_of(raw)
    if reference.startswith("sha256:"):
        if reference != digest:
            raise DigestInvalidError(f"the manifest must have the digest {reference}, but its bytes have {digest}")
    else:
        _check_tag(connection, repository, reference, digest)
    document = _read(raw, media_type)
    _check_references(connection, repository, document, blobs)
    blobs.put(connection, repository, raw, digest)
    row = _row(document, repository=repository, digest=digest, media_type=media_type, size=len(raw))
    connection.execute(insert_or_ignore(connection, manifests).values(row))
    if reference != digest:
        set_tag(connection, repository, reference, digest)
    return PushedManifest(digest=digest, subject=row["subject"])


def find(connection: Connection, repository: str, reference: str) -> StoredManifest:
    """Return the manifest of a tag or digest.

    Raises:
        ManifestUnknownError: the repository has no such tag or digest.
    """
    digest: str | None = reference
    if not reference.startswith("sha256:"):
        is_tag = tags.c.repository == repository, tags.c.tag == reference
        digest = connection.execute(select(tags.c.digest).where(*is_tag)).scalar_one_or_none()
    is_manifest = manifests.c.repository == repository, manifests.c.digest == digest
    row = connection.execute(select(manifests).where(*is_manifest)).one_or_none()
    if row is None:
        raise ManifestUnknownError(f"repository {repository} has no manifest {reference[:128]!r}")
    return StoredManifest(digest=Digest(row.digest), media_type=row.media_type, size=row.size)


def list_tags(connection: Connection, repository: str, last: str) -> list[str]:
    """Return the tags after `last` in lexical order.

    Raises:
        NotFoundError: the repository is empty.
    """
    pushed = select(manifests.c.digest).where(manifests.c.repository == repository).limit(1)
    if connection.execute(pushed).one_or_none() is None:
        raise NotFoundError(f"no repository is called {repository[:128]!r}: push something to it first")
    # Sorted here: databases do not agree on the order of text.
    names = sorted(connection.execute(select(tags.c.tag).where(tags.c.repository == repository)).scalars())
    return [tag for tag in names if tag > last]


def referrers(connection: Connection, repository: str, subject: str, artifact_type: str | None) -> Index:
    """Return the manifests that refer to `subject` as an index, possibly empty."""
    refers = manifests.c.repository == repository, manifests.c.subject == subject
    rows = connection.execute(select(manifests).where(*refers).order_by(manifests.c.digest))
    return Index(manifests=tuple(_descriptor(row) for row in rows if artifact_type in (None, row.artifact_type)))


def set_tag(connection: Connection, repository: str, tag: str, digest: str) -> None:
    """Create a tag or move it to another manifest."""
    is_tag = tags.c.repository == repository, tags.c.tag == tag
    if connection.execute(update(tags).where(*is_tag).values(digest=digest)).rowcount == 0:
        connection.execute(insert(tags).values(repository=repository, tag=tag, digest=digest))


def _check_tag(connection: Connection, repository: str, tag: str, digest: Digest) -> None:
    if not _TAG.fullmatch(tag):
        raise ManifestInvalidError(f"a tag must be letters, digits, '_', '.' and '-', at most 128, not {tag[:140]!r}")
    if not tag.isascii() or not tag.isdigit():
        return
    is_version = model_versions.c.model == repository, model_versions.c.version == int(tag[:9])
    published = connection.execute(select(model_versions.c.index_digest).where(*is_version)).scalar_one_or_none()
    if published not in (None, digest):
        raise ConflictError(f"{repository}:{tag} is a published version and never changes; publish a new version instead")


def _read(raw: bytes, media_type: str) -> _Document:
    if media_type not in _KNOWN_TYPES:
        raise ManifestInvalidError(f"a manifest's Content-Type must be {' or '.join(_KNOWN_TYPES)}, not {media_type[:99]!r}")
    document = wire.decode(raw, _Document, what="the manifest", error=ManifestInvalidError)
    if document.mediaType not in (None, media_type):
        raise ManifestInvalidError(f"the manifest's mediaType must be its Content-Type {media_type}, not {document.mediaType}")
    return document


def referenced_digests(blobs: BlobStore, digest: str, media_type: str) -> frozenset[str]:
    """Return the digests of what a stored manifest refers to, without its subject; none if its file is missing."""
    try:
        raw = blobs.path_of(digest).read_bytes()
    except FileNotFoundError:
        return frozenset()
    return frozenset(descriptor.digest for descriptor in _references(_read(raw, media_type)))


def _references(document: _Document) -> list[Descriptor]:
    return [*document.layers, *document.manifests, *([document.config] if document.config else [])]


def _check_references(connection: Connection, repository: str, document: _Document, blobs: BlobStore) -> None:
    for descriptor in _references(document):
        if not has_blob(connection, repository, descriptor.digest) or not blobs.mark_used(descriptor.digest):
            raise ManifestBlobUnknownError(
                f"the manifest needs {descriptor.digest}, which {repository} does not have: push it first"
            )


def _row(document: _Document, *, repository: str, digest: str, media_type: str, size: int) -> dict[str, Any]:
    return {
        "repository": repository,
        "digest": digest,
        "media_type": media_type,
        "size": size,
        "subject": document.subject.digest if document.subject else None,
        # OCI distribution specification 1.1, "Listing Referrers"
        "artifact_type": document.artifactType or (document.config.mediaType if document.config else None),
        "annotations": document.annotations,
    }


def _descriptor(row: Row[Any]) -> Descriptor:
    return Descriptor(
        mediaType=row.media_type,
        digest=row.digest,
        size=row.size,
        artifactType=row.artifact_type,
        annotations=row.annotations,
    )
