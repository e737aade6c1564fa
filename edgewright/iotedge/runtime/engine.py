"""The containers of one runtime in a container engine; those of others are never touched.

A container belongs to a runtime by its labels, so a runtime that was killed finds its containers again. It has the name of its
module, as on an IoT Edge device, and modules reach each other by these names in one network.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgewright.errors import BadInputError, ConflictError
from edgewright.iotedge.runtime.deployment import LAST, Deployment, ModuleSpec
from edgewright.iotedge.runtime.rules import Observed
from edgewright.serving.supervision.engine import image_of, reporting

OWNER_LABEL = "dev.edgewright.iotedge.owner"
"""Label with the instance of the runtime that made a container."""
MODULE_LABEL = "dev.edgewright.iotedge.module"
_DIGEST_LABEL = "dev.edgewright.iotedge.digest"
_ORDER_LABEL = "dev.edgewright.iotedge.startup-order"
NETWORK = "azure-iot-edge"
STOP_TIMEOUT_S = 10
WORKLOAD_FOLDER = "/var/run/iotedge"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*Z")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Variables and volumes of a module besides its own settings."""

    environment: dict[str, str]
    workload_folder: Path | None = None
    """Folder of the host with the socket of the workload API."""


class Containers:
    """The containers of one runtime."""

    def __init__(self, client: Any, owner: str, network: str = NETWORK) -> None:
        self._client = client
        self._owner = owner
        self._network = network

    def observe(self) -> dict[str, Observed]:
        """Return the containers of this runtime by module; raise `UnreachableError` if the engine does not answer."""
        with reporting("modules"):
            found = self._client.api.containers(all=True, filters={"label": f"{OWNER_LABEL}={self._owner}"})
            shown = [self._inspect(each["Id"]) for each in found]
        return {each.module: each for each in shown if each is not None}

    def create(self, spec: ModuleSpec, deployment: Deployment, surroundings: Surroundings, log: Any) -> None:
        """Pull the image of a module and replace its container; start it if the module is to run.

        Raises:
            BadInputError: the image does not exist, or is for another architecture.
            ConflictError: another container has the module's name.
            OperationError: the image cannot be pulled, or the engine refuses the container.
            UnreachableError: the engine does not answer.
        """
        with reporting(spec.image):
            image = self._image(spec, deployment, log)
            self._check_architecture(spec.image, image.attrs)
            body = self._body(spec, image.id, surroundings)
            self.remove(spec.name)
            self._check_name(spec.name)
            self._client.api.create_container_from_config(body, name=spec.name)
            if spec.is_running:
                self.start(spec)

    def start(self, spec: ModuleSpec) -> None:
        """Start the container of a module; raise `OperationError` if the engine refuses, as when a port is taken."""
        with reporting(spec.image):
            for each in self._of(spec.name):
                self._client.api.start(each)

    def restart(self, spec: ModuleSpec) -> None:
        """Stop the container of a module, if it runs, and start it."""
        self.stop(spec.name)
        self.start(spec)

    def stop(self, module: str) -> None:
        """Stop the container of a module: SIGTERM, after 10 s SIGKILL."""
        with reporting(module):
            for each in self._of(module):
                self._client.api.stop(each, timeout=STOP_TIMEOUT_S)

    def remove(self, module: str) -> None:
        """Stop and remove the container of a module with its anonymous volumes."""
        self.stop(module)
        with reporting(module):
            for each in self._of(module):
                self._client.api.remove_container(each, v=True, force=True)

    def platform(self) -> dict[str, str]:
        """Return the engine's operating system, architecture and version, as the agent of IoT Edge reports them."""
        with reporting("modules"):
            shown = self._client.api.version()
        return {"os": shown["Os"], "architecture": shown["Arch"], "version": shown["Version"]}

    def _of(self, module: str) -> list[str]:
        labels = [f"{OWNER_LABEL}={self._owner}", f"{MODULE_LABEL}={module}"]
        return [each["Id"] for each in self._client.api.containers(all=True, filters={"label": labels})]

    def _inspect(self, identity: str) -> Observed | None:
        import docker.errors

        try:
            facts = self._client.api.inspect_container(identity)
        except docker.errors.NotFound:
            return None
        labels, state = facts["Config"]["Labels"], facts["State"]
        order = labels.get(_ORDER_LABEL, "")
        return Observed(
            module=labels[MODULE_LABEL],
            container=identity,
            digest=labels.get(_DIGEST_LABEL, ""),
            is_running=bool(state["Running"]),
            was_started=_instant(state["StartedAt"]) is not None,
            exit_code=int(state["ExitCode"]),
            is_unhealthy=(state.get("Health") or {}).get("Status") == "unhealthy",
            started_at=_instant(state["StartedAt"]),
            ended_at=_instant(state["FinishedAt"]),
            image_hash=facts["Image"],
            start_order=int(order) if order.isdecimal() else LAST,
        )

    def _image(self, spec: ModuleSpec, deployment: Deployment, log: Any) -> Any:
        import docker.errors

        if spec.pulls:
            return image_of(self._client, spec.image, log, deployment.login_for(spec.image))
        try:
            return self._client.images.get(spec.image)
        except docker.errors.ImageNotFound:
            raise BadInputError(
                f"the image {spec.image} must be on this machine, because imagePullPolicy is never, but it is not: load it"
            ) from None

    def _check_architecture(self, reference: str, image: dict[str, Any]) -> None:
        own = self._client.api.version()["Arch"]
        own, other = _ARCHITECTURES.get(own, own), image.get("Architecture") or ""
        if other and _ARCHITECTURES.get(other, other) != own:
            raise BadInputError(f"the image {reference} must be for {own}, as this machine is, but it is for {other}")

    def _check_name(self, name: str) -> None:
        for each in self._client.api.containers(all=True, filters={"name": f"^/{re.escape(name)}$"}):
            if (each.get("Labels") or {}).get(OWNER_LABEL) != self._owner:
                raise ConflictError(
                    f"the name {name} must be free for the module, but a container of another owner has it: rename it"
                )

    def _body(self, spec: ModuleSpec, image: str, surroundings: Surroundings) -> dict[str, Any]:
        body = copy.deepcopy(spec.options)
        host = body.setdefault("HostConfig", {})
        variables = {**spec.environment, **surroundings.environment}
        own = [each for each in body.get("Env") or [] if each.partition("=")[0] not in variables]
        body["Env"] = [*own, *(f"{name}={value}" for name, value in variables.items())]
        body["Image"] = image
        # Manifests often have the bindings only; the engine publishes no port that is not exposed.
        body["ExposedPorts"] = {**{port: {} for port in host.get("PortBindings") or {}}, **(body.get("ExposedPorts") or {})}
        body["Labels"] = {
            **(body.get("Labels") or {}),
            OWNER_LABEL: self._owner,
            MODULE_LABEL: spec.name,
            _DIGEST_LABEL: spec.digest(),
            _ORDER_LABEL: str(spec.start_order),
        }
        if surroundings.workload_folder is not None:
            host["Binds"] = [*(host.get("Binds") or []), f"{surroundings.workload_folder}:{WORKLOAD_FOLDER}"]
        if not host.get("NetworkMode") and not (body.get("NetworkingConfig") or {}).get("EndpointsConfig"):
            self._need_network()
            host["NetworkMode"] = self._network
        host["RestartPolicy"] = {"Name": "no"}  # restarts are counted here
        return body

    def _need_network(self) -> None:
        if not self._client.networks.list(names=[self._network]):
            self._client.networks.create(self._network, driver="bridge", labels={OWNER_LABEL: self._owner})


def _instant(text: str) -> datetime | None:
    """Return the instant of the engine's text; None for the year 1, which stands for never."""
    match = _TIME.fullmatch(text)
    if match is None or text.startswith("0001"):
        return None
    return datetime.fromisoformat(f"{match[1]}{match[2] or ''}+00:00")
