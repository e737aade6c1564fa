"""Images in the database: a numbered record per build, and what a finished build makes visible in the registry."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import images, model_versions
from cloud.images.build.order import BuiltImage
from cloud.registry import manifests
from cloud.registry.blobs import BlobStore, link_blob
from edgewright.contracts import wire
from edgewright.contracts.environments.images import BuildState, ImageRecord, ImageRequest
from edgewright.contracts.names import nearest
from edgewright.contracts.oci import INDEX_TYPE, MANIFEST_TYPE, Manifest
from edgewright.errors import ConflictError, NotFoundError


def create(connection: Connection, request: ImageRequest, now: datetime) -> ImageRecord:
    """Store a request as the next version of its image; `models` and `environment` have exact versions.

    Raises:
        ConflictError: a model has the name of the image, so that their tags would collide.
    """
    assign_alone(connection)
    of_model = select(model_versions.c.model).where(model_versions.c.model == request.name).limit(1)
    if connection.execute(of_model).one_or_none() is not None:
        raise ConflictError(f"an image's name must not be that of a model, but {request.name} is one: choose another name")
    newest = select(func.max(images.c.version)).where(images.c.name == request.name)
    version = (connection.execute(newest).scalar_one() or 0) + 1
    record = ImageRecord(
        name=request.name, version=version, request=request, state=BuildState.QUEUED, created_at=now, changed_at=now
    )
    connection.execute(
        insert(images).values(
            name=record.name, version=version, state=record.state.value, record=wire.encode(record), created_at=now
        )
    )
    raise_counter(connection, Counter.CHANGES)
    return record


def all_images(connection: Connection) -> list[ImageRecord]:
    """Return every image, by name and version."""
    rows = connection.execute(select(images.c.record).order_by(images.c.name, images.c.version))
    return [_read(row.record) for row in rows]


def versions(connection: Connection, name: str) -> list[ImageRecord]:
    """Return all versions of an image, oldest first.

    Raises:
        NotFoundError: no image has that name; the message suggests the nearest names.
    """
    rows = connection.execute(select(images.c.record).where(images.c.name == name).order_by(images.c.version))
    found = [_read(row.record) for row in rows]
    if not found:
        names = connection.execute(select(images.c.name).distinct()).scalars()
        raise NotFoundError(f"no image is called {name[:64]!r}{nearest(name, names)}")
    return found


def find(connection: Connection, name: str, version: int) -> ImageRecord:
    """Return one version of an image."""
    found = versions(connection, name)
    for record in found:
        if record.version == version:
            return record
    raise NotFoundError(f"image {name} has no version {version}; its newest is {found[-1].version}")


def claim(connection: Connection, now: datetime) -> ImageRecord | None:
    """Return the oldest queued build, which is running from now on; None without one."""
    queued = select(images).where(images.c.state == BuildState.QUEUED.value).order_by(images.c.created_at, images.c.version)
    row = connection.execute(queued.limit(1).with_for_update(skip_locked=True)).one_or_none()
    return None if row is None else save(connection, replace(_read(row.record), state=BuildState.RUNNING, changed_at=now))


def requeue(connection: Connection, now: datetime) -> None:
    """Queue the builds again that ran when the cloud ended; layers that they completed are found in the cache."""
    running = select(images.c.record).where(images.c.state == BuildState.RUNNING.value)
    for row in connection.execute(running).all():
        save(connection, replace(_read(row.record), state=BuildState.QUEUED, changed_at=now))


def fail(connection: Connection, record: ImageRecord, reason: str, now: datetime) -> ImageRecord:
    """Store the failure of a build."""
    return save(connection, replace(record, state=BuildState.FAILED, reason=" ".join(reason.split()), changed_at=now))


def finish(connection: Connection, blobs: BlobStore, record: ImageRecord, built: BuiltImage, now: datetime) -> ImageRecord:
    """Show the blobs of a finished build in the repository of the image, and tag its index with the version."""
    for layer in built.layers:
        link_blob(connection, record.name, layer.blob.digest)
    for config in built.configs:
        link_blob(connection, record.name, config.digest)
    bill = wire.decode(blobs.path_of(built.bill.digest).read_bytes(), Manifest, what="the bill's manifest")
    for blob in (bill.config, *bill.layers):
        link_blob(connection, record.name, blob.digest)
    for document, media_type, reference in (
        *((manifest, MANIFEST_TYPE, manifest.digest) for manifest in built.manifests),
        (built.index, INDEX_TYPE, str(record.version)),
        (built.bill, MANIFEST_TYPE, built.bill.digest),
    ):
        raw = blobs.path_of(document.digest).read_bytes()
        manifests.put(connection, blobs, repository=record.name, reference=reference, raw=raw, media_type=media_type)
    finished = replace(
        record,
        state=BuildState.SUCCEEDED,
        index=built.index,
        bill=built.bill,
        layers=built.layers,
        new_bytes=built.new_bytes,
        labels=built.labels,
        changed_at=now,
    )
    return save(connection, finished)


def save(connection: Connection, record: ImageRecord) -> ImageRecord:
    """Replace the stored record."""
    is_image = images.c.name == record.name, images.c.version == record.version
    connection.execute(update(images).where(*is_image).values(state=record.state.value, record=wire.encode(record)))
    raise_counter(connection, Counter.CHANGES)
    return record


def _read(raw: bytes) -> ImageRecord:
    return wire.decode(raw, ImageRecord, what="a stored image")
