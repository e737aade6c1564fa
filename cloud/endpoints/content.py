"""The content of a deployment: its files, copied from the registry, and the command that serves them.

    ROOT/<endpoint>/                            the folder of the supervisor, and keys/keys.json
    ROOT/<endpoint>/deployments/<generation>/   the working directory of the script; complete or absent
        files/                                  the folder of the entry script
        azureml-models/<model>/<version>/       model files, or the package as an OCI layout

`AZUREML_MODEL_DIR` is the folder of the one model, or `azureml-models` if there are several, as in Azure ML.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from cloud.endpoints.store import HOST, StoredEndpoint
from cloud.registry import models
from cloud.registry.blobs import BlobStore, RepositoryBlobs
from edgewright.contracts import wire
from edgewright.contracts.endpoints import (
    FILES_REPOSITORY,
    DeployedModel,
    Deployment,
    EndpointAuth,
    EndpointKeys,
    EndpointTarget,
)
from edgewright.contracts.environments.definition import SERVER_PACKAGES
from edgewright.contracts.files import replace_directory, staging_beside, write_atomically
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.registration import SourceFile, check_relative
from edgewright.contracts.oci import Index, OciLayout
from edgewright.contracts.package import read_index
from edgewright.errors import NotFoundError
from edgewright.serving.supervision.container import KEYS_FOLDER, OPTIONS_VARIABLE, ContainerOptions
from edgewright.serving.supervision.service import DesiredService, Generation, ServiceFolder

MODELS = "azureml-models"
START_MARGIN_S = 30.0
"""Time for the start of a server process, in addition to that of the script's `init`."""
MIN_HANG_TIMEOUT_S = 15.0
"""Least time without an answer to a probe after which a server process is replaced; a long run may delay the answer."""
_FILES = "files"


@dataclass(frozen=True, slots=True)
class EndpointFolder:
    """The folder of one endpoint."""

    path: Path

    @property
    def service(self) -> ServiceFolder:
        """The files of its supervisor."""
        return ServiceFolder(self.path)

    @property
    def keys(self) -> Path:
        """The file with its keys."""
        return self.path / "keys" / "keys.json"

    def deployment(self, generation: int) -> Path:
        """The folder of one deployment."""
        return self.path / "deployments" / str(generation)

    def write_keys(self, keys: EndpointKeys) -> None:
        """Write the keys; the server reads the file again when it changes."""
        self.keys.parent.mkdir(parents=True, exist_ok=True)
        self.keys.parent.chmod(0o750)
        write_atomically(self.keys, wire.encode(keys), mode=0o640)
        self.keys.chmod(0o640)  # the user of a container reads it by its group; the state directory is closed to all others

    def has_keys(self, keys: EndpointKeys) -> bool:
        """Return True if the file has these keys."""
        try:
            return self.keys.read_bytes() == wire.encode(keys)
        except OSError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """Address of this cloud's registry, and the file with its token, for images that are pulled from it."""

    address: str = ""
    token_file: str = ""


def prepare(folder: EndpointFolder, endpoint: StoredEndpoint, blobs: BlobStore, registry: RegistryAccess) -> None:
    """Write the files of an endpoint's generation, then its desired service; a repetition changes nothing.

    Raises:
        NotFoundError: a model version or a file is no longer in the registry.
        StorageFullError: the disk is full; nothing of this generation is left.
    """
    target = folder.deployment(endpoint.generation)
    if not target.exists():
        with staging_beside(target) as staging:
            for model in endpoint.deployment.models:
                place = staging / MODELS / model.name / str(model.version)
                _write_model(place, model, blobs, as_package=not endpoint.deployment.entry_script)
            _write_files(staging / _FILES, FILES_REPOSITORY, endpoint.deployment.files, blobs)
            replace_directory(staging, target)
    folder.write_keys(endpoint.keys)
    folder.service.write_desired(desired_service(folder, endpoint, registry))


def with_image(endpoint: StoredEndpoint, reference: str) -> StoredEndpoint:
    """Return an endpoint whose models and script are in an image."""
    deployment = replace(endpoint.deployment, image=reference, models=(), entry_script="", files=())
    return replace(endpoint, deployment=deployment)


def with_variables(endpoint: StoredEndpoint, variables: Mapping[str, str]) -> StoredEndpoint:
    """Return an endpoint with the variables of its environment; its own count where both have one."""
    return replace(endpoint, deployment=replace(endpoint.deployment, variables={**variables, **endpoint.deployment.variables}))


def log_differences(folder: EndpointFolder, environment: str, packages: Iterable[str]) -> None:
    """Write one line to the log of an endpoint in processes: which pip packages of its environment this Python lacks.

    Args:
        folder: that of the endpoint.
        environment: NAME:VERSION.
        packages: requirements in pip's notation.
    """
    found = sorted(filter(None, map(_difference, packages)))
    if found:
        text = f"the target local installs no packages of environment {environment}: {', '.join(found)}; use the target container"
        with folder.service.log.open("a", encoding="utf-8") as log:
            log.write(f"warning: {text}\n")


def _difference(package: str) -> str:
    """Return the requirement and the installed version if that does not satisfy it, else an empty text."""
    try:
        required = Requirement(package)
        installed = metadata.version(required.name)
    except InvalidRequirement:
        return ""
    except metadata.PackageNotFoundError:
        return "" if required.name in SERVER_PACKAGES else f"{package} (none here)"
    return "" if required.specifier.contains(installed, prereleases=True) else f"{package} ({installed} here)"


def desired_service(folder: EndpointFolder, endpoint: StoredEndpoint, registry: RegistryAccess) -> DesiredService:
    """Return the service that the supervisor of an endpoint should run."""
    deployment, directory = endpoint.deployment, folder.deployment(endpoint.generation)
    if deployment.target is EndpointTarget.CONTAINER:
        command = ["edgewright.serving.supervision.container"]
        variables = {OPTIONS_VARIABLE: wire.encode(_container(folder, endpoint, registry)).decode()}
    else:
        command, variables = ["edgewright", "serve", *_arguments(folder, endpoint)], dict(deployment.variables)
    generation = Generation(
        number=endpoint.generation,
        command=(sys.executable, "-P", "-m", *command),
        directory=str(directory),
        environment=variables,
        replicas=deployment.replicas,
        start_timeout_s=deployment.init_timeout_s + START_MARGIN_S,
        retry_for_s=deployment.init_timeout_s,
        hang_timeout_s=max(MIN_HANG_TIMEOUT_S, deployment.scoring_timeout_s + 5),
        drain_timeout_s=deployment.scoring_timeout_s + 5,
    )
    return DesiredService(host=HOST, port=endpoint.port, generation=generation)


def remove_unused(folder: EndpointFolder, used: Iterable[int | None]) -> None:
    """Remove the folders of deployments other than `used`."""
    kept = {str(generation) for generation in used}
    for path in (folder.path / "deployments").glob("*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _arguments(folder: EndpointFolder, endpoint: StoredEndpoint) -> list[str]:
    deployment, directory = endpoint.deployment, folder.deployment(endpoint.generation)
    folders = [directory / MODELS / model.name / str(model.version) for model in deployment.models]
    model_folder = folders[0] if len(folders) == 1 else directory / MODELS
    if deployment.entry_script:
        arguments = [str(directory / _FILES / deployment.entry_script)]
        arguments += ["--model-dir", str(model_folder)] if folders else []
    else:
        arguments = [str(_only_file(model_folder)), *(["--trust"] if deployment.trust else [])]
    arguments += ["--json", "--name", endpoint.name, *_limits(deployment)]
    arguments += [] if deployment.grpc_port is None else ["--grpc-port", str(deployment.grpc_port)]
    return arguments if deployment.auth is EndpointAuth.OFF else [*arguments, "--keys", str(folder.keys)]


def _limits(deployment: Deployment) -> list[str]:
    timeouts = ["--init-timeout", f"{deployment.init_timeout_s:g}", "--scoring-timeout", f"{deployment.scoring_timeout_s:g}"]
    return ["--workers", str(deployment.workers), *timeouts]


def _container(folder: EndpointFolder, endpoint: StoredEndpoint, registry: RegistryAccess) -> ContainerOptions:
    deployment = endpoint.deployment
    has_keys = deployment.auth is not EndpointAuth.OFF
    return ContainerOptions(
        service=str(folder.path),
        image=deployment.image,
        command=(*_limits(deployment), *(("--keys", f"{KEYS_FOLDER}/{folder.keys.name}") if has_keys else ())),
        keys_folder=str(folder.keys.parent) if has_keys else "",
        variables=deployment.variables,
        cpu=deployment.cpu,
        memory_gb=deployment.memory_gb,
        gpus=deployment.gpus,
        registry=registry.address,
        token_file=registry.token_file,
        start_timeout_s=deployment.init_timeout_s + START_MARGIN_S,
        drain_timeout_s=deployment.scoring_timeout_s + 5,
    )


def _only_file(model_folder: Path) -> Path:
    """Return the file of a model that is one file, else its folder."""
    found = list(model_folder.iterdir()) if model_folder.is_dir() else []
    return found[0] if len(found) == 1 and found[0].is_file() else model_folder


def _write_model(target: Path, model: DeployedModel, blobs: BlobStore, *, as_package: bool) -> None:
    """Write a model's files, or its package: the one that the version has; with both, `as_package` decides."""
    with blobs.database.reading() as connection:
        version = models.find_version(connection, model.name, model.version)
    if version.files and not (as_package and version.variants):
        _write_files(target, model.name, version.files, blobs)
    else:
        _write_layout(target, version, blobs)


def _write_files(target: Path, repository: str, files: Iterable[SourceFile], blobs: BlobStore) -> None:
    target.mkdir(parents=True)
    for file in files:
        destination = target / check_relative(file.path)
        destination.parent.mkdir(parents=True, exist_ok=True)
        _copy(blobs.blob_path(repository, file.digest), destination)


def _write_layout(target: Path, version: ModelVersion, blobs: BlobStore) -> None:
    """Write a package as an OCI image layout (image specification 1.1, image-layout.md)."""
    package = read_index(RepositoryBlobs(blobs, version.model), version.index)
    layout = OciLayout.create(target)
    for blob in (package.descriptor, *package.blobs()):
        if not layout.has_blob(blob):
            _copy(blobs.blob_path(version.model, blob.digest), layout.blob_path(blob.digest))
    layout.write_index(Index(manifests=(package.descriptor,)))


def _copy(source: Path, destination: Path) -> None:
    """Copy a blob; a script may write to its copy, so it is not a link."""
    try:
        shutil.copyfile(source, destination)
    except FileNotFoundError as error:
        raise NotFoundError(f"{destination.name} must be in the registry, but its file {source.name} is missing") from error
    destination.chmod(0o600)
