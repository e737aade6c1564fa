"""The operations of an operator on endpoints: deploy, update, replace a key, delete. `engine.py` carries them out."""

from __future__ import annotations

import secrets
import socket
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from cloud.context import Cloud
from cloud.db.database import assign_alone
from cloud.endpoints.store import HOST, StoredEndpoint, all_endpoints, find_endpoint, one_endpoint, save
from cloud.environments import store as environments
from cloud.registry import models
from cloud.registry.blobs import has_blob
from cloud.registry.trust import check_trusted_files
from edgewright.contracts.endpoints import (
    FILES_REPOSITORY,
    Deployment,
    DeployRequest,
    EndpointAuth,
    EndpointKeys,
    EndpointLabels,
    EndpointState,
    EndpointTarget,
    EndpointToken,
    EndpointTokenRequest,
    RegenerateRequest,
    UpdateRequest,
    check_endpoint_name,
)
from edgewright.contracts.environments.definition import parse_environment_reference
from edgewright.errors import ConflictError
from edgewright.serving.http import tokens
from edgewright.serving.supervision.container import check_engine

_KEY_BYTES = 32


def check_target(deployment: Deployment) -> None:
    """Check, outside of a transaction, that this cloud can start what a new endpoint needs.

    An engine that goes away later is waited for, because an endpoint outlives its restarts.

    Raises:
        UnreachableError: the deployment needs a container engine, but none answers.
        BadInputError: the library docker is not installed.
    """
    if deployment.target is EndpointTarget.CONTAINER:
        check_engine()


def deploy(cloud: Cloud, connection: Connection, name: str, request: DeployRequest, now: datetime) -> StoredEndpoint:
    """Create an endpoint, or with `overwrite` give an existing one a new deployment.

    Raises:
        ConflictError: the name or the port is taken, or a file was not pushed before.
        NotFoundError: a model version does not exist.
    """
    check_endpoint_name(name)
    assign_alone(connection)
    existing = find_endpoint(connection, name)
    if existing is not None and existing.is_deleted:
        raise ConflictError(f"endpoint {name} is being deleted: try again when 'edgewright endpoints list' no longer shows it")
    if existing is not None and not request.overwrite:
        raise ConflictError(f"an endpoint is called {name} already: choose another name, update it, or deploy with overwrite")
    _check_content(connection, request.deployment)
    keys = EndpointKeys(primary=request.primary_key or _new_key(), secondary=request.secondary_key or _new_key())
    port = _choose_port(connection, name, request.deployment.port)
    endpoint = StoredEndpoint(
        name=name,
        owner=cloud.owner,
        deployment=_with_grpc_port(connection, name, request.deployment, port),
        labels=request.labels,
        keys=keys if existing is None else _merged_keys(existing.keys, request),
        generation=1 if existing is None else existing.generation + 1,
        port=port,
        state=EndpointState.TRANSITIONING,
        reason="",
        answering=None if existing is None else existing.answering,
        is_deleted=False,
        created_at=now if existing is None else existing.created_at,
        changed_at=now,
        deployed_at=now,
    )
    save(connection, endpoint)
    return endpoint


def update(cloud: Cloud, connection: Connection, name: str, request: UpdateRequest, now: datetime) -> StoredEndpoint:
    """Change labels, and with a deployment start it beside the one that answers; requests continue meanwhile.

    Raises:
        NotFoundError: no endpoint or model version is called so.
        ConflictError: a property exists with another value, or the endpoint is being deleted.
    """
    existing = _one_active(connection, name)
    changed = replace(existing, labels=_changed_labels(existing.labels, request), changed_at=now)
    if request.deployment is not None and request.deployment != existing.deployment:
        _check_content(connection, request.deployment)
        port = _choose_port(connection, name, request.deployment.port)
        changed = replace(
            changed,
            owner=cloud.owner,
            deployment=_with_grpc_port(connection, name, request.deployment, port),
            generation=existing.generation + 1,
            port=port,
            state=EndpointState.TRANSITIONING,
            reason="",
            deployed_at=now,
        )
    save(connection, changed)
    return changed


def regenerate_key(connection: Connection, name: str, request: RegenerateRequest, now: datetime) -> EndpointKeys:
    """Replace one key; the other one stays valid."""
    existing = _one_active(connection, name)
    keys = replace(existing.keys, **{request.name.value: request.key or _new_key()})
    save(connection, replace(existing, keys=keys, changed_at=now))
    return keys


def issue_token(connection: Connection, name: str, request: EndpointTokenRequest, now: datetime) -> EndpointToken:
    """Sign a token with the primary key of an endpoint.

    Raises:
        ConflictError: the endpoint asks for no credential.
    """
    existing = _one_active(connection, name)
    if existing.deployment.auth is EndpointAuth.OFF:
        raise ConflictError(f"endpoint {name} asks for no credential, so it has no tokens: update it with another --auth")
    token = tokens.issue(existing.keys.primary, now_s=now.timestamp(), lifetime_s=request.valid_s)
    valid = timedelta(seconds=request.valid_s)
    return EndpointToken(token=token, expires_at=now + valid, refresh_after=now + 0.9 * valid)


def delete(connection: Connection, name: str, now: datetime) -> StoredEndpoint:
    """Delete an endpoint: it answers its open requests, then its processes and files are removed."""
    existing = one_endpoint(connection, name)
    deleted = replace(existing, is_deleted=True, changed_at=now)
    save(connection, deleted)
    return deleted


def _one_active(connection: Connection, name: str) -> StoredEndpoint:
    existing = one_endpoint(connection, name)
    if existing.is_deleted:
        raise ConflictError(f"endpoint {name} is being deleted: deploy it again")
    return existing


def _new_key() -> str:
    return secrets.token_urlsafe(_KEY_BYTES)


def _merged_keys(keys: EndpointKeys, request: DeployRequest) -> EndpointKeys:
    return EndpointKeys(primary=request.primary_key or keys.primary, secondary=request.secondary_key or keys.secondary)


def _changed_labels(labels: EndpointLabels, request: UpdateRequest) -> EndpointLabels:
    for name, value in (request.properties or {}).items():
        if labels.properties.get(name, value) != value:
            raise ConflictError(f"property {name} is {labels.properties[name]!r} and never changes: use a tag instead")
    return EndpointLabels(
        description=labels.description if request.description is None else request.description,
        tags=labels.tags if request.tags is None else request.tags,
        properties={**labels.properties, **(request.properties or {})},
    )


def _check_content(connection: Connection, deployment: Deployment) -> None:
    for model in deployment.models:
        version = models.find_version(connection, model.name, model.version)
        if not deployment.entry_script:
            check_trusted_files(version, trust=deployment.trust)
    if deployment.environment:
        environments.find(connection, parse_environment_reference(deployment.environment))
    missing = [file.path for file in deployment.files if not has_blob(connection, FILES_REPOSITORY, file.digest)]
    if missing:
        raise ConflictError(f"{len(missing)} files must be pushed to {FILES_REPOSITORY} first, such as {missing[0]}")


def _choose_port(connection: Connection, name: str, port: int | None) -> int:
    """Return the port of an endpoint: the given one, that of its earlier deployment, or a free one."""
    existing = find_endpoint(connection, name)
    if existing is not None and port in (None, existing.port):
        return existing.port
    return _free_port(port or 0, _taken_ports(connection))


def _with_grpc_port(connection: Connection, name: str, deployment: Deployment, http_port: int) -> Deployment:
    """Return a deployment whose gRPC port, if it asks for one, is chosen: the given one, the earlier one, or a free one."""
    if deployment.grpc_port is None:
        return deployment
    existing = find_endpoint(connection, name)
    own = None if existing is None else existing.deployment.grpc_port
    if own is not None and deployment.grpc_port in (0, own):
        return replace(deployment, grpc_port=own)
    return replace(deployment, grpc_port=_free_port(deployment.grpc_port, {**_taken_ports(connection), http_port: name}))


def _taken_ports(connection: Connection) -> dict[int, str]:
    """Return the ports of all endpoints, whether they run or not, with the names of the endpoints."""
    stored = all_endpoints(connection)
    return {port: each.name for each in stored for port in (each.port, each.deployment.grpc_port) if port is not None}


def _free_port(port: int, taken: dict[int, str]) -> int:
    if port in taken:
        raise ConflictError(f"port {port} must be free, but endpoint {taken[port]} has it: choose another port")
    while (chosen := _bindable(port)) in taken:
        pass
    return chosen


def _bindable(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()  # two sockets with SO_REUSEADDR may share a port until one of them listens
        except OSError as error:
            text = f"port {port} of {HOST} must be free, but it cannot be used ({error.strerror}): choose another port"
            raise ConflictError(text) from error
        chosen: int = probe.getsockname()[1]
        return chosen
