"""A real docker-registry, configured by the test."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgewright.registries.login import Credentials

USER = Credentials("tester", "tested-password")
# bcrypt of that password, made with crypt(3)
HTPASSWD = "tester:$2y$05$abcdefghijklmnopqrstuupbW/7BeC11QAIPZdirV8G2NmQFDWCYu\n"


@contextmanager
def docker_registry(program: Path, folder: Path, port: int, options: dict[str, Any]) -> Iterator[str]:
    """Run docker-registry until the block ends; its configuration is JSON, which is YAML as well."""
    host = f"127.0.0.1:{port}"
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}}
    config = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": {"addr": host}} | options
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(program), "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        ends_at = time.monotonic() + 30
        while not _listens(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < ends_at
            time.sleep(0.05)
        yield host
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
