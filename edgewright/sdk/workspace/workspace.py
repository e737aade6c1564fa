"""The handle to one cloud: a configured one, or without one the embedded cloud of the current folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.contracts.connection.client_context import CONTEXT_FILE, ClientContext
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk import embedded
from edgewright.sdk.client import CloudClient
from edgewright.sdk.context import DEFAULT, find_context
from edgewright.sdk.workspace.datastore import Datastore

if TYPE_CHECKING:
    from edgewright.sdk.services.environment import Environment
    from edgewright.sdk.services.webservice import Webservice
    from edgewright.sdk.workspace.model import Model

CONFIG_FILE = "config.json"


class Workspace:
    """A handle to one cloud.

    Workspace("churn")                  the configured cloud, or the embedded cloud in ./.edgewright
    Workspace.from_config("conf.json")  the cloud that a file names

    Configured means: EDGEWRIGHT_CLOUD, or `~/.config/edgewright/client.json`. Azure's subscription, resource group, location and
    authentication are accepted and have no effect.
    """

    def __init__(
        self,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        workspace_name: str | None = None,
        *,
        cloud: str | None = None,
        folder: Path | None = None,
        **_ignored: object,
    ) -> None:
        """Open the workspace of a cloud.

        Args:
            subscription_id: kept for scripts of Azure ML; without effect.
            resource_group: the same.
            workspace_name: name to show; default: the name of the folder.
            cloud: client.json, its directory, or a URL; default: the configured cloud, else the embedded one.
            folder: folder of the embedded cloud and of the datastore; default: the current one.
        """
        self.subscription_id = subscription_id or ""
        self.resource_group = resource_group or ""
        self.location = "local"
        self.folder = (folder or Path.cwd()).resolve()
        self.name = workspace_name or self.folder.name or "workspace"
        self._cloud = cloud
        self._client: CloudClient | None = None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, **_ignored: object) -> Workspace:
        """Return the workspace of a file: `client.json` of a cloud, or `config.json` with `cloud` or with Azure's three names.

        Without `path`, `config.json` is read from this folder, `.edgewright` or `.azureml`, or from a parent folder. Without such
        a file, the configured or the embedded cloud is used.

        Raises:
            NotFoundError: `path` names no file, and no folder with one.
            BadInputError: the file is not JSON of this form.
        """
        file = _config_in(Path(path)) if path is not None else _config_above(Path.cwd())
        if file is None:
            if path is not None:
                raise NotFoundError(f"{path}: no such {CONFIG_FILE} or {CONTEXT_FILE}; omit the path for the embedded cloud")
            return cls()
        if file.name == CONTEXT_FILE:
            return cls(cloud=str(file))
        stored = _read_config(file)
        cloud = stored.get("cloud")
        return cls(
            stored.get("subscription_id"),
            stored.get("resource_group"),
            stored.get("workspace_name"),
            cloud=str(file.parent / cloud) if cloud and "://" not in cloud else cloud,
        )

    @classmethod
    def create(cls, name: str, **_ignored: object) -> Workspace:
        """Return the workspace of the configured or embedded cloud under a name; an embedded cloud is started."""
        workspace = cls(workspace_name=name)
        workspace.cloud.context  # noqa: B018  starts the cloud, so that a failure is seen here
        return workspace

    @classmethod
    def get(cls, name: str, **_ignored: object) -> Workspace:
        """Return the workspace as `create` does."""
        return cls.create(name)

    def write_config(self, path: str | os.PathLike[str] | None = None, file_name: str = CONFIG_FILE) -> None:
        """Write the file that `from_config` reads, to `path` (default: this folder)."""
        stored = {"workspace_name": self.name, "subscription_id": self.subscription_id, "resource_group": self.resource_group}
        if self._cloud is not None:
            stored["cloud"] = self._cloud if "://" in self._cloud else str(Path(self._cloud).resolve())
        write_atomically(Path(path or ".") / file_name, (json.dumps(stored, indent=2) + "\n").encode())

    @property
    def cloud(self) -> CloudClient:
        """The client of the cloud; an embedded cloud that is not running is started."""
        context = self._context()
        if self._client is None or self._client.context != context:
            self.close()
            self._client = CloudClient(context)
        return self._client

    def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def is_embedded(self) -> bool:
        """True if no cloud is configured."""
        return self._cloud is None and not os.environ.get("EDGEWRIGHT_CLOUD") and not DEFAULT.expanduser().is_file()

    @property
    def exists(self) -> bool:
        """True if a cloud is configured, or the folder has an embedded one: a use creates no new cloud."""
        return not self.is_embedded or embedded.is_in(self.folder / embedded.FOLDER)

    @property
    def url(self) -> str:
        """Address of the cloud."""
        return self.cloud.context.url

    @property
    def ca_file(self) -> str | None:
        """Certificate authority of the cloud's addresses for `requests.get(url, verify=ws.ca_file)`; None for plain HTTP."""
        context = self.cloud.context
        return None if context.ca_file is None or context.url.startswith("http://") else str(context.ca_file)

    @property
    def models(self) -> dict[str, Model]:
        """The newest version of every model, by name."""
        from edgewright.sdk.workspace.model import Model

        return {version.model: Model.of_version(self, version) for version in self.cloud.models()}

    @property
    def environments(self) -> dict[str, Environment]:
        """The newest version of every environment, by name."""
        from edgewright.sdk.services.environment import Environment

        return Environment.list(self)

    @property
    def webservices(self) -> dict[str, Webservice]:
        """The services, by name."""
        from edgewright.sdk.services.webservice import Webservice

        return {each.name: each for each in Webservice.list(self)}

    def get_default_datastore(self) -> Datastore:
        """Return the folder `.edgewright/datastore` of this workspace."""
        return Datastore(self.folder / embedded.FOLDER / "datastore")

    def get_details(self) -> dict[str, str]:
        """Return name, address and kind of the workspace."""
        return {
            "name": self.name,
            "url": self.url,
            "location": self.location,
            "kind": "embedded" if self.is_embedded else "cloud",
        }

    def __repr__(self) -> str:
        """Show the name and the cloud, as far as they are known without starting one."""
        cloud = self.folder / embedded.FOLDER if self.is_embedded else self._cloud or "configured"
        return f"Workspace(name={self.name!r}, cloud={str(cloud)!r})"

    def _context(self) -> ClientContext:
        if self.is_embedded:
            return embedded.ensure_running(self.folder / embedded.FOLDER)
        return find_context(self._cloud) if self._client is None else self._client.context


def _config_in(path: Path) -> Path | None:
    if path.is_file():
        return path
    names = (CONTEXT_FILE, CONFIG_FILE, f"{embedded.FOLDER}/{CONFIG_FILE}", f".azureml/{CONFIG_FILE}")
    return next((path / name for name in names if (path / name).is_file()), None)


def _config_above(folder: Path) -> Path | None:
    """Return the nearest config file of a folder and its parents, as Azure's SDK does; `client.json` is not searched."""
    for each in (folder, *folder.parents):
        for name in (CONFIG_FILE, f"{embedded.FOLDER}/{CONFIG_FILE}", f".azureml/{CONFIG_FILE}"):
            if _is_ours(each / name):
                return each / name
    return None


def _is_ours(file: Path) -> bool:
    """Return True for a config file of a workspace; a config.json of another program is passed over."""
    try:
        return "workspace_name" in _read_config(file)
    except (OSError, BadInputError):
        return False


def _read_config(file: Path) -> Mapping[str, str]:
    try:
        stored = json.loads(file.read_bytes())
    except ValueError as error:
        raise BadInputError(f"{file} must be JSON, but it is not: {error}; write one with Workspace.write_config") from error
    if not isinstance(stored, dict) or not all(isinstance(value, str | None) for value in stored.values()):
        raise BadInputError(f"{file} must be a JSON object of texts; write one with Workspace.write_config")
    return stored
