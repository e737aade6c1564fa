"""The deployment that a device applies: the desired properties of `$edgeAgent`, checked, as frozen values.

The codes of a deployment's status are those of IoT Edge's agent (enum DeploymentStatusCode of github.com/Azure/iotedge).
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgewright.errors import BadInputError
from edgewright.iotedge import create_options
from edgewright.iotedge.validation import agent_faults_of

SCHEMA_MAJOR = "1"
LAST = 2**32 - 1
"""Start order of modules without one."""


class Code(enum.IntEnum):
    """The code in `lastDesiredStatus`."""

    SUCCESS = 200
    INVALID_FORMAT = 400
    UNKNOWN = 406
    """The agent does not run."""
    INVALID_SCHEMA_VERSION = 412
    EMPTY = 417
    FAILED = 500


class DeploymentError(BadInputError):
    """Desired properties that cannot be applied; what runs stays as it is."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Restart(enum.StrEnum):
    """When a module that has ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ON_UNHEALTHY = "on-unhealthy"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSpec:
    """One module of a deployment."""

    name: str
    image: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """The body of the engine's call (Docker Engine API, ContainerCreate)."""
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    restart: Restart = Restart.ALWAYS
    is_running: bool = True
    """The desired status: running or stopped."""
    pulls: bool = True
    start_order: int = LAST
    document: dict[str, Any] = field(default_factory=dict, repr=False)
    """The module as the twin has it."""

    def digest(self) -> str:
        """Return a hash of what makes another container necessary: not the status, the restart policy or the start order."""
        settings = [self.image, self.options, self.environment, self.document.get("version", "")]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Deployment:
    """All modules of one device."""

    modules: tuple[ModuleSpec, ...]
    logins: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    """User name and password by the address of a registry."""
    system_modules: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    runtime: dict[str, Any] = field(default_factory=dict, repr=False)
    version: int = 0

    def module(self, name: str) -> ModuleSpec | None:
        """Return a module, or None."""
        return next((each for each in self.modules if each.name == name), None)

    def login_for(self, image: str) -> dict[str, str] | None:
        """Return the credential of the registry of an image, or None."""
        address = image.partition("/")[0]
        return self.logins.get(address)


def parse(desired: Mapping[str, Any]) -> Deployment:
    """Return the deployment of `$edgeAgent`'s desired properties.

    Raises:
        DeploymentError: they are empty, have a fault, or have a schemaVersion of another major version than 1.
    """
    properties = {name: value for name, value in desired.items() if not name.startswith("$")}
    if not properties:
        raise DeploymentError(Code.EMPTY, "the device must have a deployment, but the desired properties of $edgeAgent are empty")
    faults = agent_faults_of(properties)
    if faults:
        raise DeploymentError(Code.INVALID_FORMAT, f"the deployment has a fault at {faults[0]}")
    schema = properties.get("schemaVersion")
    if not isinstance(schema, str) or not re.fullmatch(rf"{SCHEMA_MAJOR}\.\d+(\.\d+){{0,2}}", schema):
        raise DeploymentError(
            Code.INVALID_SCHEMA_VERSION, f"schemaVersion must be {SCHEMA_MAJOR}.0 or {SCHEMA_MAJOR}.1, not {schema!r}"
        )
    logins = properties["runtime"].get("settings", {}).get("registryCredentials") or {}
    return Deployment(
        modules=tuple(_module(name, each) for name, each in sorted(properties["modules"].items())),
        logins={each["address"]: {"username": each["username"], "password": each["password"]} for each in logins.values()},
        system_modules=properties["systemModules"],
        runtime=properties["runtime"],
        version=int(desired.get("$version", 0)),
    )


def _module(name: str, document: dict[str, Any]) -> ModuleSpec:
    environment = {key: _text(each["value"]) for key, each in (document.get("env") or {}).items()}
    return ModuleSpec(
        name=name,
        image=document["settings"]["image"],
        options=json.loads(create_options.join(document["settings"]) or "{}"),
        environment=environment,
        restart=Restart(document["restartPolicy"]),
        is_running=document["status"] == "running",
        pulls=document.get("imagePullPolicy", "on-create") == "on-create",
        start_order=document.get("startupOrder", LAST),
        document=document,
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
