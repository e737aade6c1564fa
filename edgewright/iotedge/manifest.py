"""Build a deployment manifest of IoT Edge: a new one with one module, or one more module in an existing one.

Reference: Microsoft's documentation "Learn how to deploy modules and establish routes in IoT Edge" and "Properties of the IoT
Edge agent and IoT Edge hub module twins".
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from edgewright.errors import BadInputError
from edgewright.iotedge import create_options
from edgewright.iotedge.create_options import ContainerOptions
from edgewright.iotedge.validation import AGENT, DESIRED, HUB, RUNTIME, content_of, faults_of, is_layered

_REGISTRY = "mcr.microsoft.com"
DEFAULT_TTL_S = 7200
"""Time for which the hub of a device keeps messages without a connection; the default of IoT Edge."""
_AGENT_NAMES = ("edgeAgent", "edgeHub")


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Credentials with which a device pulls images."""

    address: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module of a manifest."""

    name: str
    image: str
    options: ContainerOptions = field(default_factory=ContainerOptions)
    environment: dict[str, str] = field(default_factory=dict)
    restart_policy: str = "always"
    pull_policy: str = "on-create"
    startup_order: int | None = None
    version: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-zA-Z0-9_-]+", self.name) or self.name in _AGENT_NAMES:
            raise BadInputError(
                f"a module must be named by letters, digits, _ or -, and not edgeAgent or edgeHub, not {self.name!r}"
            )

    def to_document(self) -> dict[str, Any]:
        """Return the module as the agent's twin holds it."""
        document: dict[str, Any] = {
            "type": "docker",
            "status": "running",
            "restartPolicy": self.restart_policy,
            "imagePullPolicy": self.pull_policy,
            "settings": {"image": self.image, **create_options.split(self.options.to_document())},
        }
        if self.version:
            document["version"] = self.version
        if self.environment:
            document["env"] = {name: {"value": value} for name, value in self.environment.items()}
        if self.startup_order is not None:
            document["startupOrder"] = self.startup_order
        return document


def standard(
    module: Module,
    *,
    runtime: str = RUNTIME,
    ttl_s: int = DEFAULT_TTL_S,
    routes: dict[str, str] | None = None,
    login: RegistryLogin | None = None,
) -> dict[str, Any]:
    """Return a manifest with IoT Edge's own two modules, `module`, and one route that sends all messages to the cloud."""
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
        "systemModules": {
            "edgeAgent": {"type": "docker", "settings": {"image": f"{_REGISTRY}/azureiotedge-agent:{runtime}"}},
            "edgeHub": {
                "type": "docker",
                "status": "running",
                "restartPolicy": "always",
                "startupOrder": 0,
                "settings": {"image": f"{_REGISTRY}/azureiotedge-hub:{runtime}", **create_options.split(_HUB_OPTIONS)},
            },
        },
        "modules": {},
    }
    hub = {
        "schemaVersion": "1.1",
        "routes": {"upstream": "FROM /messages/* INTO $upstream"},
        "storeAndForwardConfiguration": {"timeToLiveSecs": ttl_s},
    }
    return added({"modulesContent": {AGENT: {DESIRED: agent}, HUB: {DESIRED: hub}}}, module, routes=routes, login=login)


def layered(module: Module, routes: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a layered manifest, which adds `module` and `routes` to the standard one of each device that it is for."""
    content: dict[str, Any] = {AGENT: {f"{DESIRED}.modules.{module.name}": module.to_document()}}
    if routes:
        content[HUB] = {f"{DESIRED}.routes.{name}": route for name, route in routes.items()}
    return {"modulesContent": content}


def added(
    manifest: dict[str, Any], module: Module, *, routes: dict[str, str] | None = None, login: RegistryLogin | None = None
) -> dict[str, Any]:
    """Return `manifest` with `module`, which replaces one of the same name, `routes`, and credentials of the module's registry.

    Raises:
        BadInputError: the manifest has faults, or is a layered one and credentials are given.
    """
    result = copy.deepcopy(manifest)
    content = content_of(result)
    if is_layered(result):
        if login is not None:
            raise BadInputError(
                "credentials of a registry belong to the base deployment: add them there, not to a layered manifest"
            )
        added_layer = content_of(layered(module, routes))
        for name, twin in added_layer.items():
            content.setdefault(name, {}).update(twin)
    else:
        try:
            agent, hub = content[AGENT][DESIRED], content[HUB][DESIRED]
            agent["modules"][module.name] = module.to_document()
            if module.startup_order is not None:
                agent["schemaVersion"] = "1.1"
            hub["routes"].update(routes or {})
            if login is not None:
                settings = agent["runtime"]["settings"]
                credentials = {"address": login.address, "username": login.username, "password": login.password}
                settings.setdefault("registryCredentials", {})[re.sub(r"[^a-zA-Z0-9_-]", "-", login.address)] = credentials
        except (KeyError, TypeError, AttributeError):
            faults = faults_of(manifest)
            raise BadInputError(f"the manifest has a fault at {faults[0]}") from None
    faults = faults_of(result)
    if faults:
        raise BadInputError(f"the manifest has a fault at {faults[0]}")
    return result


_HUB_OPTIONS = {
    "HostConfig": {
        "PortBindings": {f"{port}/tcp": [{"HostPort": port}] for port in ("443", "5671", "8883")},
    }
}
"""Ports of the device's hub for downstream devices: HTTPS, AMQP and MQTT."""
