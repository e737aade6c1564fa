"""Endpoints in the database: convert rows to values and to the records of the API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, delete, insert, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import endpoints
from cloud.endpoints.rules import Stored
from edgewright.contracts import wire
from edgewright.contracts.endpoints import Deployment, EndpointKeys, EndpointLabels, EndpointRecord, EndpointState
from edgewright.contracts.names import nearest
from edgewright.errors import NotFoundError

HOST = "127.0.0.1"
"""Address of the targets on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEndpoint:
    """One endpoint."""

    name: str
    owner: str
    """The cloud that runs it: several may share a database."""
    deployment: Deployment
    labels: EndpointLabels
    keys: EndpointKeys
    generation: int
    port: int
    state: EndpointState
    reason: str
    answering: int | None
    is_deleted: bool
    created_at: datetime
    changed_at: datetime
    deployed_at: datetime

    def rules(self) -> Stored:
        """Return the endpoint as input of the rules."""
        return Stored(
            generation=self.generation,
            state=self.state,
            reason=self.reason,
            answering=self.answering,
            is_deleted=self.is_deleted,
            deployed_at=self.deployed_at,
            start_timeout=timedelta(seconds=self.deployment.init_timeout_s),
        )

    def record(self) -> EndpointRecord:
        """Return the endpoint as the API shows it."""
        address = f"http://{HOST}:{self.port}"
        return EndpointRecord(
            endpoint=self.name,
            deployment=self.deployment,
            labels=self.labels,
            generation=self.generation,
            state=EndpointState.DELETING if self.is_deleted else self.state,
            reason=self.reason,
            answering=self.answering,
            scoring_uri=f"{address}/score",
            swagger_uri=f"{address}/swagger.json",
            created_at=self.created_at,
            changed_at=self.changed_at,
            grpc_address="" if self.deployment.grpc_port is None else f"{HOST}:{self.deployment.grpc_port}",
        )


def all_endpoints(connection: Connection) -> list[StoredEndpoint]:
    """Return every endpoint, by name."""
    return [_endpoint(row) for row in connection.execute(select(endpoints).order_by(endpoints.c.endpoint))]


def find_endpoint(connection: Connection, name: str) -> StoredEndpoint | None:
    """Return one endpoint; None if no endpoint has this name."""
    row = connection.execute(select(endpoints).where(endpoints.c.endpoint == name)).one_or_none()
    return None if row is None else _endpoint(row)


def one_endpoint(connection: Connection, name: str) -> StoredEndpoint:
    """Return one endpoint.

    Raises:
        NotFoundError: no endpoint has this name; the message suggests the nearest names.
    """
    found = find_endpoint(connection, name)
    if found is None:
        names = connection.execute(select(endpoints.c.endpoint)).scalars()
        raise NotFoundError(f"no endpoint is called {name[:64]!r}{nearest(name, names)}")
    return found


def save(connection: Connection, endpoint: StoredEndpoint) -> None:
    """Insert or replace the row of an endpoint."""
    values = {
        "owner": endpoint.owner,
        "deployment": wire.encode(endpoint.deployment),
        "labels": wire.encode(endpoint.labels),
        "keys": wire.encode(endpoint.keys),
        "generation": endpoint.generation,
        "port": endpoint.port,
        "state": endpoint.state.value,
        "reason": endpoint.reason,
        "answering": endpoint.answering,
        "deleting": endpoint.is_deleted,
        "created_at": endpoint.created_at,
        "changed_at": endpoint.changed_at,
        "deployed_at": endpoint.deployed_at,
    }
    if find_endpoint(connection, endpoint.name) is None:
        connection.execute(insert(endpoints).values(endpoint=endpoint.name, **values))
    else:
        connection.execute(update(endpoints).where(endpoints.c.endpoint == endpoint.name).values(values))
    raise_counter(connection, Counter.CHANGES)


def remove(connection: Connection, name: str) -> None:
    """Remove the row of an endpoint."""
    connection.execute(delete(endpoints).where(endpoints.c.endpoint == name))
    raise_counter(connection, Counter.CHANGES)


def _endpoint(row: Row[tuple[object, ...]]) -> StoredEndpoint:
    return StoredEndpoint(
        name=row.endpoint,
        owner=row.owner,
        deployment=wire.decode(row.deployment, Deployment, what="a stored deployment"),
        labels=wire.decode(row.labels, EndpointLabels, what="the stored labels of an endpoint"),
        keys=wire.decode(row.keys, EndpointKeys, what="the stored keys of an endpoint"),
        generation=row.generation,
        port=row.port,
        state=EndpointState(row.state),
        reason=row.reason,
        answering=row.answering,
        is_deleted=row.deleting,
        created_at=row.created_at,
        changed_at=row.changed_at,
        deployed_at=row.deployed_at,
    )
