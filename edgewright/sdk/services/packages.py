"""Images as objects: the build of an environment, the package of models, and an image by name."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from edgewright.contracts.environments.images import BuildState, ImageRecord, ImageRequest
from edgewright.errors import BadInputError, OperationError
from edgewright.sdk.images import default_image_name
from edgewright.sdk.services.environment import Environment
from edgewright.sdk.services.inference import InferenceConfig
from edgewright.sdk.workspace.default import said, workspace_or_default
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.workspace import Workspace


class Image:
    """One version of an image in the registry of the cloud.

    Attributes:
        workspace: its workspace.
    """

    def __init__(self, workspace: Workspace | None = None, name: str = "", version: int | None = None) -> None:
        """Open a version of an image, by default the newest.

        Raises:
            NotFoundError: there is no such image.
        """
        self.workspace = workspace_or_default(workspace)
        self._record = self.workspace.cloud.image(name, version)

    @classmethod
    def of_record(cls, workspace: Workspace, record: ImageRecord) -> Self:
        """Return the object of a record that the cloud returned."""
        image = cls.__new__(cls)
        image.workspace, image._record = workspace, record
        return image

    @staticmethod
    def list(workspace: Workspace | None = None, image_name: str | None = None) -> Sequence[Image]:
        """Return every version of every image, or of one."""
        workspace = workspace_or_default(workspace)
        found = workspace.cloud.images()
        return [Image.of_record(workspace, each) for each in found if image_name in (None, each.name)]

    @property
    def name(self) -> str:
        """Name of the image."""
        return self._record.name

    @property
    def version(self) -> int:
        """Number of the build."""
        return self._record.version

    @property
    def id(self) -> str:
        """`NAME:VERSION`."""
        return f"{self.name}:{self.version}"

    @property
    def state(self) -> str:
        """`Queued`, `Running`, `Succeeded` or `Failed`."""
        self._record = self.workspace.cloud.image(self.name, self.version)
        return self._record.state.value

    @property
    def location(self) -> str:
        """Reference by which a container engine pulls the image."""
        return self.workspace.cloud.image_location(self._record)

    @property
    def created_time(self) -> datetime:
        """Time of the request, UTC."""
        return self._record.created_at

    def wait_for_creation(self, show_output: bool = False) -> None:
        """Return when the image is built; with `show_output`, print the log of the build.

        Raises:
            OperationError: the build failed; the message has one line of the cause, `get_logs` the rest.
        """
        for piece in self.workspace.cloud.follow_build(self._record):
            if show_output:
                said("{piece}", piece=piece.rstrip("\n"))
        if self.state != BuildState.SUCCEEDED.value:
            raise OperationError(f"image {self.id} was not built: {self._record.reason}")

    def get_logs(self) -> str:
        """Return the log of the build."""
        return "".join(self.workspace.cloud.follow_build(self._record))

    def __repr__(self) -> str:
        """Show the identity."""
        return f"{type(self).__name__}(name={self.name!r}, version={self.version})"


class ImageBuild(Image):
    """The build of an environment's image."""

    def wait_for_completion(self, show_output: bool = True) -> ImageBuild:
        """Wait as `wait_for_creation` does; return this build."""
        self.wait_for_creation(show_output)
        return self

    @property
    def status(self) -> str:
        """State of the build."""
        return self.state


class ModelPackage(Image):
    """An image with models, a script and the server."""

    def pull(self) -> None:
        """Pull the image with docker.

        Raises:
            OperationError: docker is not installed, or refuses.
        """
        try:
            done = subprocess.run(["docker", "pull", self.location], capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise OperationError("pulling an image needs docker, which is not installed") from error
        if done.returncode:
            raise OperationError(f"docker must pull {self.location}, but it does not: {done.stderr.strip()[-300:]}")


def build_environment(workspace: Workspace, environment: Environment) -> ImageBuild:
    """Queue the build of the image of a registered environment, without a model."""
    assert environment.name is not None, "a registered environment has a name"
    name = re.sub(r"[^a-z0-9]+", "-", environment.name.lower()).strip("-")
    request = ImageRequest(name=f"{name[:50]}-environment", environment=f"{environment.name}:{environment.version}")
    return ImageBuild.of_record(workspace, workspace.cloud.build_image(request))


def package(
    workspace: Workspace, models: Sequence[Model | str], config: InferenceConfig | None, image_name: str | None
) -> ModelPackage:
    """Queue the build of an image of models with a script, or of one model without code."""
    found = [each if isinstance(each, Model) else Model(workspace, id=each) for each in models]
    if not found and config is None:
        raise BadInputError("a package must have a model or an entry script: give models, or an inference_config")
    references = tuple(each.id for each in found)
    request = ImageRequest(
        name=image_name or (default_image_name(references) if references else "script-image"),
        models=references,
        environment=_registered(workspace, config),
        trust=True,  # whoever calls has the models in a registry of her own; Azure opens its models as well
    )
    script = None if config is None else Path(config.entry_script)
    source = Path(config.source_directory) if config is not None and config.source_directory else None
    record = workspace.cloud.build_image(request, script=script, source_directory=source)
    return ModelPackage.of_record(workspace, record)


def _registered(workspace: Workspace, config: InferenceConfig | None) -> str:
    if config is None or config.definition is None:
        return ""
    version = workspace.cloud.create_environment(config.definition)
    return f"{version.name}:{version.version}"
