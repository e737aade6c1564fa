"""Published pipelines in the database. A version never changes, but whether it is enabled."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote

from sqlalchemy import Connection, Row, insert, select, update

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import pipelines
from edgewright.contracts import wire
from edgewright.contracts.names import PackageReference, check_name, nearest
from edgewright.contracts.pipelines.definition import Pipeline
from edgewright.contracts.pipelines.jobs import PipelineRecord, PublishRequest
from edgewright.errors import ConflictError, NotFoundError


def publish(connection: Connection, name: str, request: PublishRequest, url: str, now: datetime) -> PipelineRecord:
    """Store the next version of a pipeline; `url` is the address of the cloud."""
    check_name(name, "pipeline")
    assign_alone(connection)
    version = max((each.version for each in _versions(connection, name, url)), default=0) + 1
    values = {
        "pipeline": name,
        "version": version,
        "description": request.description,
        "definition": wire.encode(request.definition),
        "enabled": True,
        "created_at": now,
    }
    connection.execute(insert(pipelines).values(values))
    raise_counter(connection, Counter.CHANGES)
    return one_version(connection, PackageReference(name, version), url)


def newest_versions(connection: Connection, url: str) -> list[PipelineRecord]:
    """Return the newest version of each pipeline, by name."""
    rows = connection.execute(select(pipelines).order_by(pipelines.c.pipeline, pipelines.c.version))
    return list({record.pipeline: record for record in _records(rows, url)}.values())


def versions(connection: Connection, name: str, url: str) -> list[PipelineRecord]:
    """Return the versions of a pipeline, oldest first.

    Raises:
        NotFoundError: no pipeline has this name; the message suggests the nearest names.
    """
    found = _versions(connection, name, url)
    if not found:
        names = connection.execute(select(pipelines.c.pipeline)).scalars()
        raise NotFoundError(f"no pipeline is called {name[:64]!r}{nearest(name, set(names))}")
    return found


def one_version(connection: Connection, reference: PackageReference, url: str) -> PipelineRecord:
    """Return one version.

    Raises:
        NotFoundError: there is no such pipeline or version.
    """
    found = versions(connection, reference.name, url)
    for record in found:
        if record.version == reference.version:
            return record
    raise NotFoundError(f"pipeline {reference.name} has no version {reference.version}; its newest is {found[-1].version}")


def enabled_version(connection: Connection, reference: PackageReference, url: str) -> PipelineRecord:
    """Return the version that a job runs: the named one, or without a number the newest enabled one.

    Raises:
        NotFoundError: there is no such pipeline or version.
        ConflictError: it is disabled.
    """
    if reference.version is not None:
        chosen = one_version(connection, reference, url)
    else:
        found = versions(connection, reference.name, url)
        chosen = next((record for record in reversed(found) if record.is_enabled), found[-1])
    if not chosen.is_enabled:
        name = f"{chosen.pipeline}:{chosen.version}"
        raise ConflictError(f"pipeline {name} is disabled: 'edgewright pipelines enable {name}' permits jobs again")
    return chosen


def enable(connection: Connection, reference: PackageReference, url: str, *, is_enabled: bool) -> PipelineRecord:
    """Enable or disable one version."""
    record = one_version(connection, reference, url)
    row = (pipelines.c.pipeline == record.pipeline, pipelines.c.version == record.version)
    connection.execute(update(pipelines).where(*row).values(enabled=is_enabled))
    raise_counter(connection, Counter.CHANGES)
    return one_version(connection, reference, url)


def _versions(connection: Connection, name: str, url: str) -> list[PipelineRecord]:
    rows = connection.execute(select(pipelines).where(pipelines.c.pipeline == name).order_by(pipelines.c.version))
    return _records(rows, url)


def _records(rows: Iterable[Row[tuple[object, ...]]], url: str) -> list[PipelineRecord]:
    return [
        PipelineRecord(
            pipeline=row.pipeline,
            version=row.version,
            description=row.description,
            definition=wire.decode(row.definition, Pipeline, what="a stored pipeline"),
            is_enabled=row.enabled,
            endpoint=f"{url}/v1/pipelines/{quote(row.pipeline, safe='')}/versions/{row.version}/submit",
            created_at=row.created_at,
        )
        for row in rows
    ]
