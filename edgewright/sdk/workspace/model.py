"""Registered models: register, find, download, tag and delete them, and deploy or package them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.mlflow_folder import MLMODEL
from edgewright.contracts.models.registration import NEED_A_SCRIPT, Registration
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk.workspace.default import said, workspace_or_default
from edgewright.sdk.workspace.model_choice import Choice, chosen_files, reference_of
from edgewright.sdk.workspace.model_files import CACHE, find_model_path
from edgewright.sdk.workspace.resources import Framework, ResourceConfiguration, azure_name, framework_of
from edgewright.sdk.workspace.workspace import Workspace

if TYPE_CHECKING:
    from edgewright.sdk.services.deployment import DeploymentConfiguration
    from edgewright.sdk.services.inference import InferenceConfig
    from edgewright.sdk.services.model_package import ModelPackage
    from edgewright.sdk.services.model_profile import ModelProfile
    from edgewright.sdk.services.webservice import Webservice
    from edgewright.sdk.workspace.runs import Run


class Model:
    """One version of a registered model.

    Attributes:
        name: name of the model.
        id: `NAME:VERSION`.
        version: number from 1.
        tags, properties: texts by name; tags may be replaced, properties are only added.
        description: text.
        model_framework, model_framework_version: names as in `Model.Framework`, and a version as it was registered.
        resource_configuration: processors and memory, or None.
        run_id: the run that trained it, or an empty text.
        created_time: UTC.
    """

    Framework = Framework

    def __init__(
        self,
        workspace: Workspace | None = None,
        name: str | None = None,
        id: str | None = None,
        tags: Sequence[str] | None = None,
        properties: Sequence[str] | None = None,
        version: int | None = None,
        run_id: str | None = None,
        model_framework: str | None = None,
    ) -> None:
        """Find the newest version that fits all arguments.

        Args:
            workspace: where to look; default: the configured or embedded cloud.
            name: name of the model.
            id: `NAME:VERSION`, `NAME@ALIAS` or `NAME`, in place of the name.
            tags: texts `name` or `name=value`; also lists of a name and a value, as in Azure.
            properties: the same for properties.
            version: number; default: the newest that fits.
            run_id: id of a run.
            model_framework: framework.

        Raises:
            NotFoundError: there is no such model, or no version that fits.
            BadInputError: neither name nor id.
        """
        self.workspace = workspace_or_default(workspace)
        reference = reference_of(name, id, version)
        if reference.alias is not None or (reference.version is not None and not (tags or properties or run_id)):
            self._set(self.workspace.cloud.model_version(reference))
            return
        choice = Choice(tags, properties, run_id, model_framework)
        fitting = [
            each
            for each in self.workspace.cloud.model_versions(reference.name)
            if choice.fits(each) and reference.version in (None, each.version)
        ]
        if not fitting:
            raise NotFoundError(f"model {reference} must have a version that fits all arguments, but none does")
        self._set(fitting[-1])

    @classmethod
    def of_version(cls, workspace: Workspace, version: ModelVersion) -> Model:
        """Return the object of a version that the cloud returned."""
        model = cls.__new__(cls)
        model.workspace = workspace
        model._set(version)
        return model

    @staticmethod
    def register(
        workspace: Workspace | None = None,
        model_path: str | os.PathLike[str] = "",
        model_name: str = "",
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        description: str | None = None,
        datasets: object = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        child_paths: Sequence[str] | None = None,
        sample_input_dataset: object = None,
        sample_output_dataset: object = None,
        resource_configuration: ResourceConfiguration | None = None,
        *,
        run_id: str = "",
    ) -> Model:
        """Register a file or folder as the next version of `model_name`.

        A folder keeps its name in the version, as in Azure, unless the framework or an MLmodel file makes it a model that is
        served without code.

        Args:
            workspace: default: the configured or embedded cloud.
            model_path: file or folder on this machine.
            model_name: name; lower-case letters and digits, joined by '.', '_' or '-'.
            tags: texts by name; other values are stored as their text.
            properties: the same.
            description: text.
            datasets: accepted and not stored: there are no data set objects.
            model_framework: a constant of `Model.Framework`.
            model_framework_version: version of the framework that saved the model.
            child_paths: files below the folder `model_path`; default: all.
            sample_input_dataset: as `datasets`.
            sample_output_dataset: as `datasets`.
            resource_configuration: what a service of the model gets by default.
            run_id: the run that trained it.

        Raises:
            NotFoundError: there is no such file.
            BadInputError: the name, a tag or the framework is not allowed, or the folder is empty.
        """
        workspace = workspace_or_default(workspace)
        resources = resource_configuration or ResourceConfiguration()
        registration = Registration(
            framework=framework_of(model_framework),
            framework_version=model_framework_version or "",
            description=description or "",
            cpu=resources.cpu,
            memory_gb=resources.memory_in_gb,
            run=run_id,
            tags=_texts(tags),
            properties=_texts(properties),
        )
        said("Registering model {name}", name=model_name)
        with chosen_files(Path(model_path), child_paths) as path:
            keeps_name = registration.framework in NEED_A_SCRIPT and not (path / MLMODEL).exists()
            version = workspace.cloud.register_model(model_name, path, registration, keeps_name=keeps_name)
        return Model.of_version(workspace, version)

    @staticmethod
    def list(
        workspace: Workspace | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        properties: Sequence[str] | None = None,
        run_id: str | None = None,
        latest: bool = False,
        model_framework: str | None = None,
    ) -> list[Model]:
        """Return the versions that fit all arguments, newest first; with `latest` one of each model."""
        workspace = workspace_or_default(workspace)
        cloud = workspace.cloud
        names = [name] if name is not None else [each.model for each in cloud.models()]
        choice = Choice(tags, properties, run_id, model_framework)
        found = []
        for each in names:
            fitting = [version for version in reversed(cloud.model_versions(each)) if choice.fits(version)]
            found += fitting[:1] if latest else fitting
        found.sort(key=lambda version: version.published_at, reverse=True)
        return [Model.of_version(workspace, version) for version in found]

    @staticmethod
    def get_model(name: str, version: int | None = None, workspace: Workspace | None = None) -> Model:
        """Return a version of a model, by default the newest."""
        return Model(workspace, name, version=version)

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None, _workspace: Workspace | None = None) -> str:
        """Return the path of a model's file or folder, downloaded to `azureml-models/NAME/VERSION` if necessary.

        In a service it is the path in the service. `model_files.py` has the order of the places.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the version has several files and no folder around them.
        """
        workspace = workspace_or_default(_workspace)

        def fetch(number: int | None) -> Path:
            return Model(workspace, model_name, version=number)._cached()

        return str(find_model_path(model_name, version, fetch if _workspace or workspace.exists else None))

    @staticmethod
    def deploy(
        workspace: Workspace,
        name: str,
        models: Sequence[Model | str],
        inference_config: InferenceConfig | None = None,
        deployment_config: DeploymentConfiguration | None = None,
        deployment_target: object = None,
        overwrite: bool = False,
        show_output: bool = False,
    ) -> Webservice:
        """Deploy models as a scoring service; `wait_for_deployment` waits until it is ready.

        Args:
            workspace: its cloud runs the service.
            name: 3 to 32 lower-case letters, digits and '-'.
            models: models, or texts `NAME`, `NAME:VERSION`, `NAME@ALIAS`.
            inference_config: an entry script; None for one model that is served without code.
            deployment_config: default: processes on the machine of the cloud, with the resources of the model.
            deployment_target: must be None; the configuration chooses between processes and a container.
            overwrite: replace the deployment of an existing service of this name, without a lost request.
            show_output: print the states.

        Raises:
            ConflictError: the name is taken.
            BadInputError: the name, the models or the script are not allowed.
            NotFoundError: there is no such script.
        """
        from edgewright.sdk.services.deploying import Content
        from edgewright.sdk.services.kinds import deploy

        if deployment_target is not None:
            raise BadInputError("deployment_target must be None: LocalWebservice and AciWebservice run on the cloud's machine")
        content = Content(workspace, models, inference_config, deployment_config)
        service = deploy(workspace, name, content, overwrite=overwrite)
        if show_output:
            service.wait_for_deployment(show_output=True)
        return service

    @staticmethod
    def package(
        workspace: Workspace,
        models: Sequence[Model | str],
        inference_config: InferenceConfig | None = None,
        generate_dockerfile: bool = False,
        image_name: str | None = None,
        image_label: str | None = None,
    ) -> ModelPackage:
        """Build an image of models with a script, or of one model without code; `wait_for_creation` waits for it.

        Args:
            workspace: its cloud builds the image.
            models: models, or texts `NAME`, `NAME:VERSION`, `NAME@ALIAS`.
            inference_config: an entry script with its environment.
            generate_dockerfile: return a Dockerfile with its layers, which `ModelPackage.save` writes, in place of an image.
            image_name: default: the name of the first model and `-image`.
            image_label: without effect; the label is the number of the build.

        Raises:
            BadInputError: an argument is not allowed.
            NotFoundError: a model or the script does not exist.
        """
        from edgewright.sdk.services.model_package import package

        return package(workspace, models, inference_config, generate_dockerfile=generate_dockerfile, image_name=image_name)

    @staticmethod
    def profile(
        workspace: Workspace,
        profile_name: str,
        models: Sequence[Model | str],
        inference_config: InferenceConfig | None = None,
        input_dataset: Any = None,
        cpu: float | None = None,
        memory_in_gb: float | None = None,
        *,
        rate: float = 10.0,
        p95_ms: float = 1000.0,
        seconds: float = 2.0,
        trust: bool = False,
    ) -> ModelProfile:
        """Find the processors and memory that a service of models needs, on this machine; `wait_for_profiling` waits.

        `input_dataset` is a request as text, a sequence of them, or a table whose first column has them. `cpu` and `memory_in_gb`
        bound what is recommended. It holds `rate` requests per second with a 95th percentile of `p95_ms` milliseconds; a
        measurement takes `seconds`. `trust` opens a pickle of a model without code.

        Raises:
            BadInputError: an argument is not allowed.
        """
        from edgewright.sdk.services.model_profile import ProfileLimits, profile

        limits = ProfileLimits(cpu=cpu, memory_in_gb=memory_in_gb, rate=rate, p95_ms=p95_ms, seconds=seconds, trust=trust)
        return profile(workspace, profile_name, models, inference_config, input_dataset, limits)

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: bool | None = None) -> str:
        """Write the files to a folder; return the path of the file, or of the folder if there are several.

        Raises:
            BadInputError: a file exists and `exist_ok` is False.
        """
        may_exist = exist_ok if exists_ok is None else exists_ok
        target = Path(target_dir)
        names = [Path(file.path).parts[0] for file in self._version.files]
        existing = [name for name in names if (target / name).exists()]
        if existing and not may_exist:
            raise BadInputError(f"{target / existing[0]} exists already: set exist_ok=True, or choose another target_dir")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".download-") as staging:
            files = self.workspace.cloud.download_model(self._version, Path(staging) / "files")
            shutil.copytree(files, target, dirs_exist_ok=True)
        return str(target / names[0]) if len(set(names)) == 1 else str(target)

    def delete(self) -> None:
        """Delete this version; its number stays taken."""
        self.workspace.cloud.delete_version(self._version)

    def add_tags(self, tags: Mapping[str, Any]) -> None:
        """Add tags, or replace those of the same name."""
        self._set(self.workspace.cloud.set_tags(self._version, {**self.tags, **_texts(tags)}))

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Remove tags by name."""
        kept = {name: text for name, text in self.tags.items() if name not in tags}
        self._set(self.workspace.cloud.set_tags(self._version, kept))

    def add_properties(self, properties: Mapping[str, Any]) -> None:
        """Add properties; raise `ConflictError` for one that exists with another value."""
        self._set(self.workspace.cloud.add_properties(self._version, _texts(properties)))

    def update(self, tags: Mapping[str, Any] | None = None) -> None:
        """Replace all tags."""
        if tags is not None:
            self._set(self.workspace.cloud.set_tags(self._version, _texts(tags)))

    @property
    def run(self) -> Run | None:
        """The run that trained it, or None."""
        from edgewright.sdk.workspace.runs import Run

        return Run(run_id=self.run_id, workspace=self.workspace) if self.run_id else None

    def serialize(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return {
            "name": self.name,
            "id": self.id,
            "version": self.version,
            "createdTime": self.created_time.isoformat(),
            "description": self.description,
            "framework": self.model_framework,
            "frameworkVersion": self.model_framework_version,
            "tags": self.tags,
            "properties": self.properties,
            "runId": self.run_id,
        }

    def __repr__(self) -> str:
        """Show the identity."""
        return f"Model(name={self.name!r}, version={self.version})"

    def _set(self, version: ModelVersion) -> None:
        self._version = version
        facts = version.registration or Registration()
        self.name = version.model
        self.version = version.version
        self.id = f"{version.model}:{version.version}"
        self.tags = dict(facts.tags)
        self.properties = dict(facts.properties)
        self.description = facts.description
        self.model_framework = azure_name(facts.framework)
        self.model_framework_version = facts.framework_version
        self.run_id = facts.run
        self.created_time: datetime = version.published_at
        has_resources = facts.cpu is not None or facts.memory_gb is not None
        self.resource_configuration = ResourceConfiguration(facts.cpu, facts.memory_gb) if has_resources else None

    def _cached(self) -> Path:
        """Return `azureml-models/NAME/VERSION`, downloaded if it is not there; several entries are put into a folder NAME."""
        folder = Path(CACHE) / self.name / str(self.version)
        entries = {Path(file.path).parts[0] for file in self._version.files}
        target = folder if len(entries) == 1 else folder / self.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.workspace.cloud.download_model(self._version, target)
            except BadInputError:
                if not target.exists():  # else another process has downloaded it meanwhile
                    raise
        return folder


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}
