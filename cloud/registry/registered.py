"""Registered models: register source files as a version, change tags, properties and aliases, delete a version.

A number is never reused: a deleted version keeps its row, and its blobs stay until the registry is cleaned.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from cloud.db.database import Counter, assign_alone, raise_counter
from cloud.db.schema import endpoints, model_aliases, model_versions, rollouts, tags, twins
from cloud.registry import manifests, models
from cloud.registry.blobs import BlobStore, RepositoryBlobs
from edgewright.contracts import wire
from edgewright.contracts.endpoints import Deployment
from edgewright.contracts.messages import DesiredState, ModelVersion, RolloutState
from edgewright.contracts.models.registration import (
    SOURCE_TYPE,
    RegisterRequest,
    Registration,
    check_alias,
    golden_files,
    source_files,
)
from edgewright.contracts.names import check_name
from edgewright.contracts.oci import Descriptor, Index, Manifest
from edgewright.errors import ConflictError, NotFoundError, PackageError

_ACTIVE = (RolloutState.RUNNING, RolloutState.PAUSED)


def register(blobs: BlobStore, model: str, request: RegisterRequest, now: datetime) -> ModelVersion:
    """Make pushed source files the next version of a model.

    Raises:
        ConflictError: the index, its manifest or a file was not pushed before.
    """
    check_name(model, "model")
    try:
        entry, layers = _pushed_layers(RepositoryBlobs(blobs, model), request)
    except PackageError as error:
        raise ConflictError(f"{model} cannot be registered: {error}") from error
    files = tuple(source_files(layers))
    with blobs.database.transaction() as connection:
        assign_alone(connection)
        version = ModelVersion(
            model=model,
            version=models.next_version(connection, model),
            index=request.index,
            published_at=now,
            variants=(),
            size_bytes=sum(file.size for file in files),
            key_id="",
            registration=request.registration,
            files=files,
            golden=tuple(golden_files(layers)),
            source_manifest=entry.digest,
        )
        row = {
            "model": model,
            "version": version.version,
            "index_digest": version.index.digest,
            "record": wire.encode(version),
            "deleted": False,
        }
        connection.execute(insert(model_versions).values(row))
        manifests.set_tag(connection, model, str(version.version), version.index.digest)
        raise_counter(connection, Counter.CHANGES)
    return version


def replace_tags(connection: Connection, model: str, version: int, new_tags: dict[str, str]) -> ModelVersion:
    """Replace the tags of a version."""
    found = models.find_version(connection, model, version)
    return _store(connection, replace(found, registration=replace(found.registration or Registration(), tags=new_tags)))


def add_properties(connection: Connection, model: str, version: int, properties: dict[str, str]) -> ModelVersion:
    """Add properties to a version.

    Raises:
        ConflictError: a property exists with another value; properties never change.
    """
    found = models.find_version(connection, model, version)
    registration = found.registration or Registration()
    for name, value in properties.items():
        if registration.properties.get(name, value) != value:
            raise ConflictError(
                f"property {name} of {model}:{version} is {registration.properties[name]!r} and never changes: use a tag instead"
            )
    return _store(connection, replace(found, registration=replace(registration, properties=registration.properties | properties)))


def set_alias(connection: Connection, model: str, alias: str, version: int) -> ModelVersion:
    """Let an alias name a version; it leaves the version that it named before."""
    check_alias(alias)
    models.find_version(connection, model, version)
    is_alias = model_aliases.c.model == model, model_aliases.c.alias == alias
    connection.execute(delete(model_aliases).where(*is_alias))
    connection.execute(insert(model_aliases).values(model=model, alias=alias, version=version))
    raise_counter(connection, Counter.CHANGES)
    return models.find_version(connection, model, version)


def remove_alias(connection: Connection, model: str, alias: str) -> None:
    """Remove an alias; raise `NotFoundError` if the model has none of that name."""
    is_alias = model_aliases.c.model == model, model_aliases.c.alias == alias
    if connection.execute(delete(model_aliases).where(*is_alias)).rowcount != 1:
        raise NotFoundError(f"model {model[:64]} has no alias {alias[:64]!r}; 'edgewright models show' lists them")
    raise_counter(connection, Counter.CHANGES)


def delete_version(connection: Connection, model: str, version: int) -> ModelVersion:
    """Delete a version: it is no longer listed or rolled out, and its aliases are removed. Its number stays taken.

    Raises:
        ConflictError: an active rollout has it, or a device is to run it.
    """
    found = models.find_version(connection, model, version)
    _check_unused(connection, model, version)
    is_version = model_versions.c.model == model, model_versions.c.version == version
    connection.execute(update(model_versions).where(*is_version).values(deleted=True))
    connection.execute(delete(model_aliases).where(model_aliases.c.model == model, model_aliases.c.version == version))
    connection.execute(delete(tags).where(tags.c.repository == model, tags.c.tag == str(version)))
    raise_counter(connection, Counter.CHANGES)
    return found


def _pushed_layers(blobs: RepositoryBlobs, request: RegisterRequest) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    index = wire.decode(blobs.read_blob(request.index), Index, what="the index", error=PackageError)
    entries = [entry for entry in index.manifests if entry.artifactType == SOURCE_TYPE]
    if len(entries) != 1:
        raise PackageError(f"its index must have one manifest of source files, not {len(entries)}")
    manifest = wire.decode(blobs.read_blob(entries[0]), Manifest, what="the manifest", error=PackageError)
    missing = [layer.digest for layer in manifest.layers if not blobs.has_blob(layer)]
    if missing:
        raise PackageError(f"{len(missing)} of its files must be pushed first, such as {missing[0]}")
    return entries[0], manifest.layers


def _store(connection: Connection, version: ModelVersion) -> ModelVersion:
    stored = replace(version, aliases=())  # aliases have a table of their own
    is_version = model_versions.c.model == version.model, model_versions.c.version == version.version
    connection.execute(update(model_versions).where(*is_version).values(record=wire.encode(stored)))
    raise_counter(connection, Counter.CHANGES)
    return version


def _check_unused(connection: Connection, model: str, version: int) -> None:
    for row in connection.execute(select(endpoints.c.endpoint, endpoints.c.deployment)):
        deployment = wire.decode(row.deployment, Deployment, what="a stored deployment")
        if any((each.name, each.version) == (model, version) for each in deployment.models):
            raise ConflictError(
                f"{model}:{version} must not be deployed, but endpoint {row.endpoint} has it: update or delete the endpoint first"
            )
    in_rollout = rollouts.c.model == model, rollouts.c.version == version, rollouts.c.state.in_(_ACTIVE)
    number = connection.execute(select(rollouts.c.rollout).where(*in_rollout).limit(1)).scalar_one_or_none()
    if number is not None:
        raise ConflictError(
            f"{model}:{version} must not be in an active rollout, but it is in rollout {number}: abort that first"
        )
    for row in connection.execute(select(twins.c.device, twins.c.desired).where(twins.c.desired.is_not(None))):
        desired = wire.decode(row.desired, DesiredState, what="stored desired state")
        if (model, version) in {(one.model, one.version) for one in desired.every_workload}:
            raise ConflictError(
                f"{model}:{version} must not be desired by a device, but {row.device} is to run it: roll out another version"
            )
