"""Requests for images: find the models, the environment and the pushed source before a build is queued."""

from __future__ import annotations

import importlib.metadata as metadata
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from cloud.environments import store as environment_store
from cloud.images import store
from cloud.images.build.order import BuildOrder, ModelPart
from cloud.registry import models
from cloud.registry.blobs import BlobStore, RepositoryBlobs
from cloud.registry.trust import check_trusted_files
from edgewright.contracts.environments.definition import Environment, parse_environment_reference
from edgewright.contracts.environments.file_layers import place_of
from edgewright.contracts.environments.images import ImageRecord, ImageRequest
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.registration import NEED_A_SCRIPT, Framework, Registration, SourceFile
from edgewright.contracts.names import PackageReference, parse_reference
from edgewright.contracts.oci import Descriptor
from edgewright.contracts.package import Package, PackagedVariant, read_index
from edgewright.contracts.variant import CONFIG_FILE, FLOAT_VARIANT
from edgewright.errors import BadInputError, ConflictError, NotFoundError

NO_CODE = "no-code"
"""Name of the environment that the cloud chooses for a model without a script."""
_DISTRIBUTIONS: dict[Framework, tuple[str, ...]] = {
    Framework.SKLEARN: ("scikit-learn",),
    Framework.LIGHTGBM: ("lightgbm",),
    Framework.XGBOOST: ("xgboost-cpu",),
    Framework.KERAS: ("keras", "tensorflow-cpu"),
    Framework.TENSORFLOW: ("tensorflow-cpu",),
}


def create(connection: Connection, blobs: BlobStore, request: ImageRequest, now: datetime) -> ImageRecord:
    """Queue the build of a request; the record names exact versions. It raises what `resolve` raises."""
    return store.create(connection, resolve(connection, blobs, request), now)


def resolve(connection: Connection, blobs: BlobStore, request: ImageRequest) -> ImageRequest:
    """Check a request, and return it with exact versions.

    Raises:
        NotFoundError: a model, a version or the environment does not exist.
        ConflictError: the layer with the source folder was not pushed before.
        BadInputError: a model cannot be served without a script, or is a pickle without trust.
    """
    versions = [_find_model(connection, reference) for reference in request.models]
    if not request.script:
        for version in versions:
            _check_no_code(version, trust=request.trust)
    if request.source is not None and not RepositoryBlobs(blobs, request.name).has_blob(request.source):
        raise ConflictError(f"the layer {request.source.digest} with the source folder must be pushed to {request.name} first")
    environment = request.environment
    if environment:
        found = environment_store.find(connection, parse_environment_reference(environment))
        environment = f"{found.name}:{found.version}"
    exact = tuple(f"{version.model}:{version.version}" for version in versions)
    return replace(request, models=exact, environment=environment)


def order_of(connection: Connection, blobs: BlobStore, record: ImageRecord, folders: dict[str, str]) -> BuildOrder:
    """Return what a worker needs to build a queued image.

    Raises:
        NotFoundError: a model was deleted since the request.
    """
    request = record.request
    parts = tuple(
        _part(blobs, _find_model(connection, reference), request.variant if not request.script else "")
        for reference in request.models
    )
    known = {layer.blob.digest for each in store.all_images(connection) for layer in each.layers}
    known |= {layer.digest for part in parts for layer in part.layers}
    number = 0
    environment = _no_code(parts)
    if request.environment:
        found = environment_store.find(connection, parse_environment_reference(request.environment))
        environment, number = found.environment, found.version
    return BuildOrder(
        name=record.name,
        version=record.version,
        environment=environment,
        environment_version=number,
        models=parts,
        script=request.script,
        source=request.source,
        trust=request.trust,
        platforms=request.platforms,
        known_layers=tuple(sorted(known)),
        **folders,
    )


def _find_model(connection: Connection, text: str) -> ModelVersion:
    reference = parse_reference(text)
    if reference.alias is None:
        return models.find_version(connection, reference.name, reference.version)
    return _of_alias(models.list_versions(connection, reference.name), reference)


def _of_alias(versions: list[ModelVersion], reference: PackageReference) -> ModelVersion:
    for version in versions:
        if reference.alias in version.aliases:
            return version
    raise NotFoundError(f"model {reference.name} has no alias {reference.alias}: 'edgewright models show' lists them")


def _check_no_code(version: ModelVersion, *, trust: bool) -> None:
    framework = (version.registration or Registration()).framework
    if not version.variants and framework in NEED_A_SCRIPT:
        raise BadInputError(
            f"{version.model}:{version.version} must have a framework that is served without code, or a package, but its "
            f"framework is {framework}: give an entry script, or register it with another framework"
        )
    check_trusted_files(version, trust=trust)


def _part(blobs: BlobStore, version: ModelVersion, variant: str) -> ModelPart:
    is_variant = bool(version.variants) and (not version.files or bool(variant))
    files, layers = _variant_files(blobs, version, variant) if is_variant else (version.files, ())
    framework = (version.registration or Registration()).framework
    return ModelPart(
        name=version.model,
        version=version.version,
        digest=version.index.digest,
        files=files,
        layers=layers,
        framework=framework,
        is_variant=is_variant,
    )


def _variant_files(blobs: BlobStore, version: ModelVersion, name: str) -> tuple[tuple[SourceFile, ...], tuple[Descriptor, ...]]:
    """Return the files of a variant that need layers of their own, and the layers that package and image share."""
    package = read_index(RepositoryBlobs(blobs, version.model), version.index)
    chosen = _variant(package, name)
    config, files = chosen.manifest.config, chosen.layers
    by_digest = {layer.digest: layer for layer in chosen.manifest.layers}
    shared = {kind: by_digest[place_of(file)[0]] for kind, file in files.items() if place_of(file)[0] != file.digest}
    own = [
        SourceFile(path=kind.file_name, digest=file.digest, size=file.size) for kind, file in files.items() if kind not in shared
    ]
    return (SourceFile(path=CONFIG_FILE, digest=config.digest, size=config.size), *own), tuple(shared.values())


def _variant(package: Package, name: str) -> PackagedVariant:
    if name:
        return package.variant(name)
    by_name = {variant.config.variant: variant for variant in package.variants}
    return by_name.get(FLOAT_VARIANT, package.variants[0])


def _no_code(parts: tuple[ModelPart, ...]) -> Environment:
    """Return the environment of a model's framework, in the versions that this machine has."""
    names = sorted({name for part in parts if not part.is_variant for name in _DISTRIBUTIONS.get(part.framework, ())})
    return Environment(name=NO_CODE, pip_packages=tuple(map(_as_installed, names)))


def _as_installed(name: str) -> str:
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name
