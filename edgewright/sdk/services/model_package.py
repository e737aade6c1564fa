"""The package of models as Azure's `Model.package` returns it: an image to pull, or a Dockerfile with its layers to save.

Both are the same build in the cloud. An image is pulled from the registry of the cloud with its operator token. A Dockerfile
begins with an empty image and adds the layers that were saved next to it, so that `docker build` needs no registry.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, overload
from urllib.parse import urlsplit

from edgewright.contracts.environments.images import BuildState, ImageRecord, ImageRequest
from edgewright.errors import BadInputError, ConflictError, OperationError
from edgewright.sdk.images import default_image_name
from edgewright.sdk.services.inference import InferenceConfig
from edgewright.sdk.services.packages import Image
from edgewright.sdk.workspace.default import said
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.workspace import Workspace

OPERATOR = "operator"
"""User name that container tools send with the operator token (docs/spec/protocol.md, P2)."""


@dataclass(frozen=True, slots=True)
class ContainerRegistry:
    """Address and login of a registry, for `docker login`."""

    address: str
    username: str
    password: str = field(repr=False)


class ModelPackage(Image):
    """An image with models, a script and the server, or the Dockerfile of such an image.

    Attributes:
        workspace: its workspace.
        generate_dockerfile: True for a Dockerfile, which `save` writes; False for an image, which `pull` pulls.
    """

    def __init__(self, workspace: Workspace | None = None, name: str = "", version: int | None = None) -> None:
        """Open the image of an earlier package, by default its newest version.

        Raises:
            NotFoundError: there is no such image.
        """
        super().__init__(workspace, name, version)
        self.generate_dockerfile = False

    @classmethod
    def of_record(cls, workspace: Workspace, record: ImageRecord) -> Self:
        """Return the object of a record that the cloud returned."""
        package = super().of_record(workspace, record)
        package.generate_dockerfile = False
        return package

    @property
    def error(self) -> str | None:
        """Reason of a failed build, else None."""
        return self._record.reason or None

    def update_creation_state(self) -> None:
        """Read the state of the build; `state` does so as well."""
        self.state  # noqa: B018  reads the record

    def get_container_registry(self) -> ContainerRegistry:
        """Return the registry of the cloud with the user and password for `docker login`; wait until the package is built.

        The password is the operator token of the cloud.

        Raises:
            OperationError: the build failed.
        """
        self._built()
        context = self.workspace.cloud.context
        return ContainerRegistry(address=urlsplit(context.url).netloc, username=OPERATOR, password=context.token)

    @overload
    def get_logs(self, decode: Literal[True] = True, offset: int = 0) -> str: ...
    @overload
    def get_logs(self, decode: bool, offset: int = 0) -> str | bytes: ...
    def get_logs(self, decode: bool = True, offset: int = 0) -> str | bytes:
        """Return the log of the build from a byte offset, as text or as bytes of UTF-8."""
        rest = super().get_logs().encode()[offset:]
        return rest.decode("utf-8", "replace") if decode else rest

    def wait_for_creation(self, show_output: bool = False) -> None:
        """Wait as an image does; with `show_output`, print the log and the state that the build ended in.

        Raises:
            OperationError: the build failed; the message has one line of the cause, `get_logs` the rest.
        """
        super().wait_for_creation(show_output)
        if show_output:
            said("Package creation {state}", state=self.state)

    def pull(self) -> None:
        """Wait for the image and pull it with docker, which needs no login before.

        Raises:
            ConflictError: the package is a Dockerfile.
            OperationError: the build failed, docker is not installed, or docker refuses.
        """
        if self.generate_dockerfile:
            raise ConflictError("a package must be an image to be pulled, but this one is a Dockerfile: call save()")
        registry = self.get_container_registry()
        with _docker_config(registry) as folder:
            environment = {**os.environ, "DOCKER_CONFIG": str(folder)}
            command = ["docker", "pull", self.location]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            except FileNotFoundError as error:
                raise OperationError("pulling an image needs docker, which is not installed") from error
        if done.returncode:
            raise OperationError(f"docker must pull {self.location}, but it does not: {done.stderr.strip()[-300:]}")

    def save(self, output_directory: str | os.PathLike[str]) -> None:
        """Wait for the package and write its Dockerfile with the layers for `docker build` into a folder.

        The folder is created if necessary; files of the same names in it are replaced.

        Raises:
            ConflictError: the package is an image.
            BadInputError: `output_directory` is a file.
            OperationError: the build failed.
        """
        if not self.generate_dockerfile:
            raise ConflictError(
                "a package must be a Dockerfile to be saved, but this one is an image: call pull(), or Model.package(…, "
                "generate_dockerfile=True)"
            )
        target = Path(output_directory)
        if target.exists() and not target.is_dir():
            raise BadInputError(f"{target} must be a folder or not exist yet, but it is a file: choose another output_directory")
        self._built()
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as staging:
            dockerfile = self.workspace.cloud.save_image_context(self._record, Path(staging) / "context")
            for file in dockerfile.parent.iterdir():
                file.replace(target / file.name)

    def serialize(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return {"generateDockerfile": self.generate_dockerfile, "state": self.state, "location": self.location}

    def _built(self) -> None:
        """Wait until the package is built, with its log if it is not built yet."""
        if self.state != BuildState.SUCCEEDED.value:
            self.wait_for_creation(show_output=True)


def package(
    workspace: Workspace,
    models: Sequence[Model | str],
    config: InferenceConfig | None,
    *,
    generate_dockerfile: bool,
    image_name: str | None,
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
    package = ModelPackage.of_record(workspace, record)
    package.generate_dockerfile = generate_dockerfile
    return package


def _registered(workspace: Workspace, config: InferenceConfig | None) -> str:
    if config is None or config.definition is None:
        return ""
    version = workspace.cloud.create_environment(config.definition)
    return f"{version.name}:{version.version}"


@contextmanager
def _docker_config(registry: ContainerRegistry) -> Iterator[Path]:
    """Yield a copy of docker's configuration folder that has a login for the registry; the user's own is not changed."""
    folder = os.environ.get("DOCKER_CONFIG")
    original = Path(folder) if folder else Path("~/.docker").expanduser()
    with tempfile.TemporaryDirectory(prefix="edgewright-") as copy:
        for entry in original.iterdir() if original.is_dir() else ():
            if entry.name != "config.json":
                (Path(copy) / entry.name).symlink_to(entry)  # contexts, certificates and plug-ins
        login = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode("ascii")
        # A credential store or helper would take precedence over `auths`.
        config = {name: value for name, value in _stored_config(original).items() if name not in ("credsStore", "credHelpers")}
        config["auths"] = {registry.address: {"auth": login}}
        (Path(copy) / "config.json").write_text(json.dumps(config), "utf-8")
        yield Path(copy)


def _stored_config(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}
