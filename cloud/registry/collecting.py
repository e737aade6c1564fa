"""Remove blobs that nothing refers to: files of deleted versions, pushes that were not finished by a registration.

    live        what tags, versions, images, pipelines and deployments of endpoints refer to: directly, through manifests, or as a
                referrer
    unlink      a transaction removes the rows of the other blobs, so that no repository shows them
    remove      then the files without a row, one at a time; an end between two of them leaves files for the next run

A blob stays for the grace time after it was last pushed, mounted, read or looked for, so a client that has found it in the
registry can finish its push. Uploads in progress are left alone for the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select

from cloud.db.schema import endpoints, images, manifests, model_versions, pipeline_jobs, pipelines, repository_blobs, tags
from cloud.registry.blobs import BlobStore
from cloud.registry.manifests import referenced_digests
from edgewright.contracts import wire
from edgewright.contracts.endpoints import FILES_REPOSITORY, Deployment
from edgewright.contracts.environments.images import BuildState, ImageRecord
from edgewright.contracts.models.maintenance import Collected
from edgewright.contracts.pipelines import definition
from edgewright.contracts.pipelines.jobs import JobState

_Blob = tuple[str, str]
"""Repository and digest."""


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A stored manifest: what it refers to, and its subject."""

    references: frozenset[str]
    subject: str | None


def collect(blobs: BlobStore, *, grace_s: float, now: datetime) -> Collected:
    """Remove the blobs that nothing refers to and that were not used for `grace_s` seconds; return how much was removed."""
    used_since = now.timestamp() - grace_s
    with blobs.database.transaction() as connection:
        for repository, digest in _unreferenced(connection, blobs):
            if not blobs.used_since(digest, used_since):
                _unlink(connection, repository, digest)
    removed = []
    for path in blobs.stored():
        if _is_building(blobs):
            break
        size = blobs.remove_unshown(path, used_since)
        removed += [] if size is None else [size]
    blobs.remove_uploads(used_since)
    return Collected(blobs=len(removed), size_bytes=sum(removed))


def _is_building(blobs: BlobStore) -> bool:
    """Return True while an image is built: its build uses cached layers, which no repository shows before it ends."""
    states = (BuildState.QUEUED.value, BuildState.RUNNING.value)
    with blobs.database.reading() as connection:
        building = select(images.c.name).where(images.c.state.in_(states)).limit(1)
        return connection.execute(building).one_or_none() is not None


def _unreferenced(connection: Connection, blobs: BlobStore) -> list[_Blob]:
    rows = connection.execute(select(repository_blobs.c.repository, repository_blobs.c.digest))
    shown = [(row.repository, row.digest) for row in rows]
    live = _live(connection, blobs)
    return [blob for blob in shown if blob not in live]


def _live(connection: Connection, blobs: BlobStore) -> set[_Blob]:
    """Return every blob that can be reached."""
    stored = _manifests(connection, blobs)
    referrers: dict[_Blob, list[_Blob]] = {}
    for (repository, digest), manifest in stored.items():
        if manifest.subject is not None:
            referrers.setdefault((repository, manifest.subject), []).append((repository, digest))
    live: set[_Blob] = set()
    waiting = list(_roots(connection))
    while waiting:
        blob = waiting.pop()
        if blob in live:
            continue
        live.add(blob)
        waiting += referrers.get(blob, [])
        if blob in stored:
            waiting += [(blob[0], digest) for digest in stored[blob].references]
    return live


def _roots(connection: Connection) -> Iterable[_Blob]:
    """Yield what tags, versions, endpoints, pipelines and images name."""
    for row in connection.execute(select(tags.c.repository, tags.c.digest)):
        yield row.repository, row.digest
    existing = select(model_versions.c.model, model_versions.c.index_digest).where(model_versions.c.deleted.is_(False))
    for row in connection.execute(existing):
        yield row.model, row.index_digest
    for raw in connection.execute(select(endpoints.c.deployment)).scalars():
        for file in wire.decode(raw, Deployment, what="a stored deployment").files:
            yield FILES_REPOSITORY, file.digest
    yield from _files_of_pipelines(connection)
    for raw in connection.execute(select(images.c.record)).scalars():
        image = wire.decode(raw, ImageRecord, what="a stored image")
        if image.request.source is not None:
            yield image.name, image.request.source.digest


def _files_of_pipelines(connection: Connection) -> Iterable[_Blob]:
    """Yield the files of published pipelines, and of jobs whose steps may still start."""
    states = (JobState.RUNNING.value, JobState.CANCELING.value)
    queries = select(pipelines.c.definition), select(pipeline_jobs.c.definition).where(pipeline_jobs.c.state.in_(states))
    for raw in (raw for query in queries for raw in connection.execute(query).scalars()):
        for step in wire.decode(raw, definition.Pipeline, what="a stored pipeline").steps:
            for file in step.files:
                yield definition.FILES_REPOSITORY, file.digest


def _manifests(connection: Connection, blobs: BlobStore) -> dict[_Blob, _Manifest]:
    rows = connection.execute(select(manifests.c.repository, manifests.c.digest, manifests.c.media_type, manifests.c.subject))
    return {
        (row.repository, row.digest): _Manifest(referenced_digests(blobs, row.digest, row.media_type), row.subject)
        for row in rows
    }


def _unlink(connection: Connection, repository: str, digest: str) -> None:
    for table in (manifests, repository_blobs):
        connection.execute(delete(table).where(table.c.repository == repository, table.c.digest == digest))
