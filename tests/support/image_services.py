"""Containers of images on a real docker engine, and requests to their services."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.docker_engine import DockerEngine

KEY = "primary-key-of-the-test"


def started(engine: DockerEngine, name: str, location: str, keys: Path) -> str:
    """Start a container as a cluster runs it, without rights and with a read-only root; return its published address."""
    rights = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    mount = ("--volume", f"{keys}:/run/edgewright:ro")
    engine.run("run", "--detach", "--name", name, *rights, *mount, "--publish", "127.0.0.1::8000", location)
    return engine.run("port", name, "8000").splitlines()[0]


def score(address: str, body: object, key: str = KEY) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", "/score", json.dumps(body), {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def wait_until_ready(address: str, engine: DockerEngine, name: str = "service") -> None:
    """Wait until a container of docker answers."""
    wait_until_answered(address, lambda: engine.run("logs", name))


def wait_until_answered(address: str, log: Callable[[], str]) -> None:
    """Wait until a service answers; fail with its log."""
    ends_at = time.monotonic() + 60
    while True:
        try:
            if score(address, {"data": []})[0] != 503:
                return
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < ends_at, log()
        time.sleep(0.1)
