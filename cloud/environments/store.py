"""Environments in the database: a definition gets the next number of its name unless the newest has the same content."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, RowMapping, func, insert, select

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import environments
from edgewright.contracts import wire
from edgewright.contracts.environments.definition import (
    Environment,
    EnvironmentReference,
    EnvironmentVersion,
    find_version,
)
from edgewright.contracts.names import nearest
from edgewright.errors import NotFoundError


def create(connection: Connection, definition: Environment, now: datetime) -> EnvironmentVersion:
    """Store a definition as the next version of its name, and return it; the newest version is returned if nothing changed."""
    assign_alone(connection)
    of_name = select(environments).where(environments.c.name == definition.name).order_by(environments.c.version.desc())
    newest = connection.execute(of_name.limit(1)).mappings().one_or_none()
    if newest is not None and _read(newest).environment == definition:
        return _read(newest)
    created = EnvironmentVersion(
        environment=definition, version=newest["version"] + 1 if newest else 1, digest=definition.digest, created_at=now
    )
    connection.execute(
        insert(environments).values(
            name=definition.name,
            version=created.version,
            digest=created.digest,
            definition=wire.encode(definition),
            created_at=now,
        )
    )
    raise_counter(connection, Counter.CHANGES)
    return created


def newest_versions(connection: Connection) -> list[EnvironmentVersion]:
    """Return the newest version of every environment, by name."""
    newest = (
        select(environments.c.name, func.max(environments.c.version).label("version")).group_by(environments.c.name).subquery()
    )
    is_newest = (environments.c.name == newest.c.name) & (environments.c.version == newest.c.version)
    rows = connection.execute(select(environments).join(newest, is_newest)).mappings()
    return sorted(map(_read, rows), key=lambda each: each.name)


def versions(connection: Connection, name: str) -> list[EnvironmentVersion]:
    """Return all versions of an environment, oldest first.

    Raises:
        NotFoundError: no environment has that name; the message suggests the nearest names.
    """
    of_name = select(environments).where(environments.c.name == name).order_by(environments.c.version)
    found = [_read(row) for row in connection.execute(of_name).mappings()]
    if not found:
        names = connection.execute(select(environments.c.name).distinct()).scalars()
        raise NotFoundError(f"no environment is called {name[:64]!r}{nearest(name, names)}")
    return found


def find(connection: Connection, reference: EnvironmentReference) -> EnvironmentVersion:
    """Return one version of an environment; raise `NotFoundError` if it does not exist."""
    return find_version(tuple(versions(connection, reference.name)), reference)


def _read(row: RowMapping) -> EnvironmentVersion:
    return EnvironmentVersion(
        environment=wire.decode(row["definition"], Environment, what="a stored environment"),
        version=row["version"],
        digest=row["digest"],
        created_at=row["created_at"],
    )
