"""Environments as objects: from code, files or images; registered under a name, and built into an image."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.contracts import wire
from edgewright.contracts.environments import reading
from edgewright.contracts.environments.definition import Environment as Definition
from edgewright.contracts.environments.definition import EnvironmentVersion, parse_environment_reference
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError
from edgewright.sdk.services.conda import CondaDependencies
from edgewright.sdk.workspace.default import workspace_or_default
from edgewright.sdk.workspace.workspace import Workspace

if TYPE_CHECKING:
    from edgewright.sdk.services.packages import ImageBuild

DEFINITION_FILE = "azureml_environment.json"


@dataclass
class PythonSection:
    """The Python of an environment."""

    conda_dependencies: CondaDependencies = field(default_factory=CondaDependencies)
    user_managed_dependencies: bool = False
    """True: the base image has all packages, and none are installed."""
    interpreter_path: str = "python"


@dataclass
class DockerSection:
    """The base of an environment's image."""

    base_image: str | None = None
    base_dockerfile: str | None = None
    enabled: bool = True
    """Without effect; kept for scripts of Azure ML."""


class Environment:
    """A named list of what a scoring script needs.

    Attributes:
        name: name.
        version: number of the registered version as text, or None.
        python: packages and version of Python.
        docker: base image or Dockerfile.
        environment_variables: variables of the script.
        inferencing_stack_version: accepted; edgewright's own server is always used.
    """

    def __init__(self, name: str | None = None) -> None:
        """Begin an empty environment; a name may also be given to `register`."""
        self.name = name
        self.version: str | None = None
        self.python = PythonSection()
        self.docker = DockerSection()
        self.environment_variables: dict[str, str] = {}
        self.inferencing_stack_version: str | None = None
        self.description = ""

    @staticmethod
    def from_conda_specification(name: str, file_path: str | os.PathLike[str]) -> Environment:
        """Return the environment of a conda environment file."""
        return Environment._of(reading.from_conda(Path(file_path), name=name))

    @staticmethod
    def from_pip_requirements(name: str, file_path: str | os.PathLike[str], pip_version: str | None = None) -> Environment:
        """Return the environment of a requirements file of pip; `pip_version` has no effect."""
        return Environment._of(reading.from_requirements(Path(file_path), name=name))

    @staticmethod
    def from_dockerfile(
        name: str,
        dockerfile: str | os.PathLike[str],
        conda_specification: str | None = None,
        pip_requirements: str | None = None,
    ) -> Environment:
        """Return an environment whose base image a Dockerfile describes; `dockerfile` is its path, or its text."""
        text = str(dockerfile)
        is_text = "\n" in text or text.lstrip().upper().startswith("FROM ")
        based = Definition(name=name, dockerfile=text) if is_text else reading.from_dockerfile(Path(text), name=name)
        return Environment._of(_with_packages(based, conda_specification, pip_requirements))

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: object = None,
        conda_specification: str | None = None,
        pip_requirements: str | None = None,
    ) -> Environment:
        """Return an environment on a base image; the address of a registry is part of the reference."""
        based = Definition(name=name, base_image=image)
        return Environment._of(_with_packages(based, conda_specification, pip_requirements))

    @staticmethod
    def get(workspace: Workspace | None = None, name: str = "", version: str | int | None = None) -> Environment:
        """Return a registered environment, by default the newest version.

        Raises:
            NotFoundError: there is no such environment.
        """
        number = None if version is None else parse_environment_reference(f"{name}:{version}").version
        return Environment._registered(workspace_or_default(workspace).cloud.environment(name, number))

    @staticmethod
    def list(workspace: Workspace | None = None) -> dict[str, Environment]:
        """Return the newest version of every environment, by name."""
        found = workspace_or_default(workspace).cloud.list_environments()
        return {each.name: Environment._registered(each) for each in found}

    def register(self, workspace: Workspace | None = None, name: str | None = None) -> Environment:
        """Register this definition as the next version of its name, or find the newest one if nothing changed.

        Raises:
            BadInputError: no name, a name that Azure refuses, or a package that is not one.
        """
        self.name = name or self.name
        version = workspace_or_default(workspace).cloud.create_environment(self.definition())
        self.version = str(version.version)
        return self

    def build(self, workspace: Workspace | None = None, image_build_compute: object = None) -> ImageBuild:
        """Register the environment and build its image; return the build, which has `wait_for_completion`."""
        from edgewright.sdk.services.packages import build_environment

        workspace = workspace_or_default(workspace)
        self.register(workspace)
        return build_environment(workspace, self)

    def build_local(self, workspace: Workspace | None = None, platform: str | None = None, **_ignored: object) -> ImageBuild:
        """Build the image as `build` does: the cloud of a workspace is on this machine, or on one of its owner's."""
        return self.build(workspace)

    def clone(self, new_name: str) -> Environment:
        """Return an unregistered copy under another name."""
        return Environment._of(replace(self.definition(), name=new_name))

    def save_to_directory(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the definition into a folder.

        Raises:
            BadInputError: the folder exists and `overwrite` is False.
        """
        if Path(path).exists() and not overwrite:
            raise BadInputError(f"{path} exists already: set overwrite=True, or choose another folder")
        write_atomically(Path(path) / DEFINITION_FILE, wire.encode_readable(self.definition()))
        self.python.conda_dependencies.save_to_file(path)

    @staticmethod
    def load_from_directory(path: str | os.PathLike[str]) -> Environment:
        """Read a definition that `save_to_directory` wrote."""
        file = Path(path) / DEFINITION_FILE
        raw = wire.decode(file.read_bytes(), Definition, what=str(file), error=BadInputError)
        return Environment._of(raw)

    def definition(self) -> Definition:
        """Return the definition that the cloud stores; raise `BadInputError` if it is not allowed."""
        if self.name is None:
            raise BadInputError("an environment must have a name: Environment('name'), or register(workspace=ws, name='name')")
        packages = self.python.conda_dependencies
        has_packages = not self.python.user_managed_dependencies
        return Definition(
            name=self.name,
            description=self.description,
            python_version=packages.python_version,
            base_image=self.docker.base_image or "",
            dockerfile=self._dockerfile(),
            pip_packages=tuple(packages.pip_packages) if has_packages else (),
            pip_index_url=packages.pip_index_url,
            conda_packages=tuple(packages.conda_packages) if has_packages else (),
            conda_channels=tuple(packages.conda_channels) if has_packages else (),
            variables={name: str(value) for name, value in self.environment_variables.items()},
            inferencing_stack_version=self.inferencing_stack_version or "",
        )

    def __repr__(self) -> str:
        """Show the definition as JSON, as Azure's SDK does."""
        return json.dumps(wire.to_plain(self.definition()), indent=2) if self.name else "Environment(name=None)"

    def _dockerfile(self) -> str:
        given = self.docker.base_dockerfile or ""
        return Path(given).read_text("utf-8") if given and "\n" not in given and Path(given).is_file() else given

    @staticmethod
    def _registered(version: EnvironmentVersion) -> Environment:
        environment = Environment._of(version.environment)
        environment.version = str(version.version)
        return environment

    @staticmethod
    def _of(stored: Definition) -> Environment:
        environment = Environment(stored.name)
        packages = CondaDependencies.create(
            stored.pip_index_url, stored.pip_packages, stored.conda_packages, stored.python_version
        )
        for channel in stored.conda_channels:
            packages.add_channel(channel)
        environment.python = PythonSection(packages)
        environment.docker = DockerSection(stored.base_image or None, stored.dockerfile or None)
        environment.environment_variables = dict(stored.variables)
        environment.inferencing_stack_version = stored.inferencing_stack_version or None
        environment.description = stored.description
        return environment


def _with_packages(based: Definition, conda_specification: str | None, pip_requirements: str | None) -> Definition:
    if conda_specification is not None:
        read = reading.from_conda(Path(conda_specification), name=based.name)
    elif pip_requirements is not None:
        read = reading.from_requirements(Path(pip_requirements), name=based.name)
    else:
        return based
    return replace(read, base_image=based.base_image, dockerfile=based.dockerfile)
