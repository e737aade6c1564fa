"""An entry script with what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.contracts.environments.definition import Environment as Definition
from edgewright.errors import BadInputError
from edgewright.sdk.services.environment import Environment


@dataclass
class InferenceConfig:
    """An entry script (`init()`, `run()`) and an environment.

    The fields from `runtime` are those of old scripts; `conda_file` and `base_image` make an environment, and the others have no
    effect.
    """

    entry_script: str
    environment: Environment | None = None
    source_directory: str | None = None
    """Folder with the script and the files that it imports; default: the script alone."""
    runtime: str | None = None
    conda_file: str | None = None
    base_image: str | None = None
    description: str | None = None
    extra_docker_file_steps: str | None = None
    enable_gpu: bool | None = None
    base_image_registry: Any = None
    cuda_version: str | None = None

    def __post_init__(self) -> None:
        """Make the environment of an old script; raise `BadInputError` for two environments."""
        if self.environment is not None and (self.conda_file or self.base_image):
            raise BadInputError("an inference configuration must have an environment, or conda_file and base_image, not both")
        if self.extra_docker_file_steps:
            raise BadInputError("extra_docker_file_steps are not supported: put the steps into Environment.from_dockerfile")
        if self.conda_file:
            path = Path(self.source_directory or ".") / self.conda_file
            self.environment = Environment.from_conda_specification("inference", path)
        if self.base_image:
            self.environment = self.environment or Environment("inference")
            self.environment.docker.base_image = self.base_image

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of the script."""
        return dict(self.definition.variables) if self.definition else {}

    @property
    def definition(self) -> Definition | None:
        """The environment as the cloud stores it, or None."""
        if self.environment is None:
            return None
        if self.environment.name is None:
            self.environment.name = "inference"
        return self.environment.definition()
