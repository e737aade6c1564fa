"""Images as objects: an image by name, and the build of an environment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Self

from edgewright.contracts.environments.images import BuildState, ImageRecord, ImageRequest
from edgewright.errors import OperationError
from edgewright.sdk.services.environment import Environment
from edgewright.sdk.workspace.default import said, workspace_or_default
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


def build_environment(workspace: Workspace, environment: Environment) -> ImageBuild:
    """Queue the build of the image of a registered environment, without a model."""
    assert environment.name is not None, "a registered environment has a name"
    name = re.sub(r"[^a-z0-9]+", "-", environment.name.lower()).strip("-")
    request = ImageRequest(name=f"{name[:50]}-environment", environment=f"{environment.name}:{environment.version}")
    return ImageBuild.of_record(workspace, workspace.cloud.build_image(request))
