"""The fifth device: a vehicle that runs its models in containers of this machine's engine.

The image has edgewright and no model: the agent mounts what it has fetched and verified. On a machine without a container engine,
the demo prints that and continues without this device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.drivers.container import SLOT_LABEL
from edgewright.demo.processes import Shell
from edgewright.demo.show import heading, say
from edgewright.errors import EdgewrightError, OperationError
from edgewright.serving.supervision.engine import connect, image_of, reporting

DEVICE = "vehicle-1"
PROFILE = "x86-64-vnni"
ENVIRONMENT = "runtime"
SETTINGS_FILE = "agent.toml"


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """The engine, with the image in which the device runs its models."""

    client: Any
    image: str
    """Reference by digest."""

    def write_settings(self, state: Path) -> None:
        """Let the agent of a state directory run its models in containers."""
        (state / SETTINGS_FILE).write_text(f'[container]\nimage = "{self.image}"\nmemory_bytes = 1000000000\n', encoding="utf-8")


@contextmanager
def container_engine(shell: Shell) -> Iterator[ContainerEngine | None]:
    """Yield the engine with an image that the cloud has built, which is removed afterwards; None if there is no engine."""
    heading("Build the image in which a device runs its models")
    try:
        client = connect(timeout_s=5)
    except EdgewrightError as error:
        say(f"{error}; the demo continues without a device that runs containers")
        yield None
        return
    try:
        image = _pulled(client, shell)
    except EdgewrightError as error:
        say(f"{error}; the demo continues without a device that runs containers")
        yield None
        return
    try:
        yield ContainerEngine(client, image)
    finally:
        with reporting(image):
            client.images.remove(client.images.get(image).id, force=True)  # its tag too
        client.close()


def _pulled(client: Any, shell: Shell) -> str:
    """Return the reference by digest of the image, which the engine has pulled from the cloud."""
    shell.run("environments", "create", ENVIRONMENT)
    location = shell.run("environments", "build", ENVIRONMENT).split()[-1]
    token = (shell.directory / "cloud" / "operator.token").read_text("ascii").strip()
    with reporting(location):
        image = image_of(client, location, say, {"username": "operator", "password": token})
    return str(image.attrs["RepoDigests"][0])


def show_container(engine: ContainerEngine, state: Path) -> dict[str, Any]:
    """Print the container in which the device scores, and return its facts.

    Raises:
        OperationError: no container runs for the device, or it has a network.
    """
    heading(f"{DEVICE} scores in a container")
    with reporting(engine.image):
        found = [
            each
            for each in engine.client.containers.list(filters={"label": SLOT_LABEL})
            if Path(each.labels[SLOT_LABEL]).is_relative_to(state.resolve())
        ]
    networks = [each.attrs["HostConfig"]["NetworkMode"] for each in found]
    if networks != ["none"]:
        raise OperationError(f"{DEVICE} must score in one container without a network, but its containers have {networks}")
    say(f"container {found[0].short_id}: no network, no capabilities, the slot {found[0].labels[SLOT_LABEL]} mounted read-only")
    return {"device": DEVICE, "image": engine.image, "network": networks[0]}
