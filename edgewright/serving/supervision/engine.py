"""A container engine: connect to it, get images, and find the containers of processes that have ended.

The engine is docker's, or another with its API such as podman, at `DOCKER_HOST`. Other containers than ours are never touched.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

from edgewright.errors import BadInputError, OperationError, UnreachableError, one_line

PROCESS_LABEL = "dev.edgewright.process"
"""Label with the process to which a container belongs."""
MAX_PROCESSES = 1000
LOG_BYTES, LOG_FILES = "10m", "3"


def connect(timeout_s: float = 60) -> Any:
    """Return a client of the engine, which has answered.

    Raises:
        UnreachableError: no container engine answers.
        BadInputError: the library docker is not installed.
    """
    try:
        import docker
        import docker.errors
        import requests
    except ModuleNotFoundError as error:
        raise BadInputError("containers need the library docker on this machine: pip install 'edgewright[container]'") from error
    try:
        client = docker.from_env(timeout=timeout_s)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise UnreachableError(f"the container engine does not answer: {one_line(error)}; start it") from error
    return client


@contextlib.contextmanager
def reporting(image: str) -> Iterator[None]:
    """Raise errors of the engine as errors of ours.

    Raises:
        UnreachableError: the engine does not answer.
        BadInputError: the image does not exist.
        OperationError: the engine refuses.
    """
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.NotFound as error:
        raise BadInputError(f"the image {image} must exist, but the engine finds none: {_explained(error)}") from error
    except docker.errors.APIError as error:
        raise OperationError(f"the engine refuses the container of {image}: {_explained(error)}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise UnreachableError(f"the container engine does not answer: {one_line(error)}; start it") from error


def _explained(error: Any) -> str:
    return " ".join(str(error.explanation or error).split())[:300]


def image_of(client: Any, reference: str, log: Callable[[str], None], credential: Mapping[str, str] | None = None) -> Any:
    """Return an image; it is pulled if the engine does not have it.

    Raises:
        BadInputError: the registry does not have it.
        OperationError: it cannot be pulled: the registry does not answer, or asks for other credentials.
    """
    import docker.errors
    import docker.utils

    try:
        return client.images.get(reference)
    except docker.errors.ImageNotFound:
        log(f"pulling {reference}")
    repository, tag = docker.utils.parse_repository_tag(reference)
    try:
        for event in client.api.pull(repository, tag=tag or "latest", auth_config=credential, stream=True, decode=True):
            if "error" in event:  # podman answers 200 first
                raise OperationError(f"the image {reference} cannot be pulled: {one_line(event['error'])}")
    except docker.errors.NotFound:
        raise
    except docker.errors.APIError as error:
        raise OperationError(f"the image {reference} cannot be pulled: {_explained(error)}") from error
    return client.images.get(reference)


def restrictions(label: str, value: str, *, cpus: float | None, memory_bytes: int | None) -> dict[str, Any]:
    """Return options of a container: no privileges, a read-only file system, limits, a log with rotation, our labels.

    Args:
        label: which `remove_abandoned` finds.
        value: of the label.
        cpus: limit in processors, such as 0.5; None for no limit.
        memory_bytes: limit of memory and swap together; None for no limit.
    """
    from docker.types import LogConfig

    return {
        "nano_cpus": None if cpus is None else round(cpus * 1e9),
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,
        "read_only": True,
        "tmpfs": {"/tmp": ""},  # noqa: S108  inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": MAX_PROCESSES,
        "log_config": LogConfig(type="json-file", config={"max-size": LOG_BYTES, "max-file": LOG_FILES}),
        "labels": {label: value, PROCESS_LABEL: process_identity(os.getpid())},
    }


def remove_abandoned(client: Any, label: str, is_ours: Callable[[str], bool]) -> None:
    """Remove the containers whose process has ended, if the value of their label is ours."""
    for container in client.containers.list(all=True, filters={"label": label}):
        if not is_ours(container.labels.get(label, "")):
            continue
        identity = container.labels.get(PROCESS_LABEL, "")
        pid = identity.partition("@")[0]
        if not pid.isdecimal() or process_identity(int(pid)) != identity:
            container.remove(force=True, v=True)


def process_identity(pid: int) -> str:
    """Return a process id with its start time, which another process with the same id does not have."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def wait_for_end(container: Any) -> int:
    """Return the exit code of a container when it ends; the engine's proxy may close a long wait.

    A container that the engine no longer has counts as killed.
    """
    import docker.errors

    while True:
        with contextlib.suppress(Exception):
            return int(container.wait(timeout=3600)["StatusCode"])
        try:
            container.reload()
        except docker.errors.NotFound:
            return 137
        except Exception:  # noqa: BLE001, S110  the engine is away; the container may run on
            pass
        time.sleep(1.0)
