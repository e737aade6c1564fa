"""Run a container as a server process: `python -m edgewright.serving.supervision.container`.

The process accepts connections on the inherited socket and passes their bytes to the port of the container. To its supervisor it
is a server process like any other: it reports when the container is ready, drains it on SIGTERM, and ends when it does. An update
therefore keeps the address, and no request is lost.

    pull the image                   if the engine does not have it
    remove abandoned containers      those of this service whose process has ended
    run the container                limits, no further privileges, read-only file system, a port on 127.0.0.1
    wait until it is ready           GET /health/ready
    pass connections                 until SIGTERM, or until the container ends
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewright.contracts import wire
from edgewright.errors import BadInputError, EdgewrightError, OperationError
from edgewright.serving.supervision.engine import (
    connect,
    image_of,
    remove_abandoned,
    reporting,
    restrictions,
    wait_for_end,
)
from edgewright.serving.supervision.relay import Relay
from edgewright.serving.supervision.service import READY, SOCKET_VARIABLE
from edgewright.worker_process import exit_with_parent

OPTIONS_VARIABLE = "EDGEWRIGHT_CONTAINER"
"""Environment variable with `ContainerOptions` as JSON: unlike a command line, other users cannot read it."""
KEYS_FOLDER = "/run/edgewright"
_SERVICE_LABEL = "dev.edgewright.service"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """The container of an endpoint."""

    service: str
    """The folder of the service: names the containers that belong to it."""
    image: str
    command: tuple[str, ...]
    keys_folder: str = ""
    """Folder with the file of keys; empty without authentication."""
    variables: dict[str, str] = field(default_factory=dict)
    cpu: float | None = None
    memory_gb: float | None = None
    gpus: int = 0
    registry: str = ""
    """Address of the cloud's registry, whose images are pulled with its token."""
    token_file: str = ""
    start_timeout_s: float = 300.0
    drain_timeout_s: float = 35.0


def run(options: ContainerOptions) -> int:
    """Serve with a container until SIGTERM or until it ends; return the exit code.

    Raises:
        UnreachableError: the engine does not answer.
        BadInputError: the image does not exist, or lacks an exposed port.
        OperationError: the container ended, or was not ready in time.
    """
    client = connect()
    server_socket = socket.socket(fileno=int(os.environ.pop(SOCKET_VARIABLE)))
    with reporting(options.image):
        image = image_of(client, options.image, _log, _credential(options))
        remove_abandoned(client, _SERVICE_LABEL, lambda value: value == options.service)
        container = _started(client, options, image)
    try:
        threading.Thread(target=_follow_log, args=[container], daemon=True).start()
        address = _ready_address(container, options)
        return asyncio.run(_relay(container, options, address, server_socket))
    finally:
        with contextlib.suppress(Exception):  # the engine may be away; the next start removes it
            container.remove(force=True, v=True)


async def _relay(container: Any, options: ContainerOptions, address: tuple[str, int], server_socket: socket.socket) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    relay = Relay(server_socket, address)
    await relay.start()
    os.write(1, READY + f': "http://{address[0]}:{address[1]}"}}\n'.encode())
    waiting = asyncio.create_task(asyncio.to_thread(wait_for_end, container))
    stopping = asyncio.create_task(ended.wait())
    await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
    relay.close()
    if stopping.done():
        await asyncio.to_thread(container.stop, timeout=round(options.drain_timeout_s))
        await relay.finished(timeout_s=2.0)
        return 0
    stopping.cancel()
    code = waiting.result()
    _log(f"the container ended with exit code {code}")
    return code or 1


def check_engine() -> None:
    """Check that a container can be started here.

    Raises:
        UnreachableError: no container engine answers within 5 s.
        BadInputError: the library docker is not installed.
    """
    connect(timeout_s=5).close()


def _credential(options: ContainerOptions) -> dict[str, str] | None:
    """Return the credential of the cloud's own registry; None for an image of another one."""
    if not options.registry or not options.image.startswith(f"{options.registry}/"):
        return None
    return {"username": "operator", "password": Path(options.token_file).read_text("ascii").strip()}


def _started(client: Any, options: ContainerOptions, image: Any) -> Any:
    from docker.types import DeviceRequest

    ports = sorted(image.attrs["Config"].get("ExposedPorts") or {})
    if not ports:
        raise BadInputError(f"the image {options.image} must expose the port of its server, but it exposes none")
    volumes = {options.keys_folder: {"bind": KEYS_FOLDER, "mode": "ro"}} if options.keys_folder else {}
    memory_bytes = None if options.memory_gb is None else round(options.memory_gb * 1e9)
    return client.containers.run(
        image.id,
        list(options.command),
        detach=True,
        ports={ports[0]: ("127.0.0.1", None)},
        environment=options.variables,
        volumes=volumes,
        group_add=[str(os.getgid())] if options.keys_folder else [],  # the group of the file of keys
        device_requests=[DeviceRequest(count=options.gpus, capabilities=[["gpu"]])] if options.gpus else [],
        **restrictions(_SERVICE_LABEL, options.service, cpus=options.cpu, memory_bytes=memory_bytes),
    )


def _ready_address(container: Any, options: ContainerOptions) -> tuple[str, int]:
    """Return the published address as soon as the server is ready there."""
    ends_at = time.monotonic() + options.start_timeout_s
    while time.monotonic() < ends_at:
        container.reload()
        if container.status == "exited":
            code, last = container.attrs["State"]["ExitCode"], container.logs(tail=1).decode("utf-8", "replace").strip()
            kind = BadInputError if code == BadInputError.exit_code else OperationError
            raise kind(last.removeprefix("edgewright: ") or f"the container ended with exit code {code}")
        for bindings in (container.ports or {}).values():
            if bindings and _is_ready("127.0.0.1", port := int(bindings[0]["HostPort"])):
                return "127.0.0.1", port
        time.sleep(_POLL_S)
    raise OperationError(f"the container must be ready within {options.start_timeout_s:g} s, but it is not")


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _follow_log(container: Any) -> None:
    with contextlib.suppress(Exception):  # ends with the container
        for piece in container.logs(stream=True, follow=True):
            sys.stderr.buffer.write(piece)
            sys.stderr.buffer.flush()


def _log(text: str) -> None:
    os.write(2, f"{text}\n".encode())


def main() -> None:
    """Run the container that `OPTIONS_VARIABLE` describes; end with the exit code of the error."""
    text = os.environ.pop(OPTIONS_VARIABLE)
    exit_with_parent(gracefully=True)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # before the container is ready
    try:
        sys.exit(run(wire.decode(text, ContainerOptions, what="the options of the container")))
    except EdgewrightError as error:
        _log(f"edgewright: {' '.join(str(error).split())}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
