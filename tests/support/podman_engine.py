"""Podman of the tests' own: its images and containers are below one folder, and its API is that of docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.docker_engine import Daemon, DockerEngine

# runc and cgroupfs work on hosts with a mixture of cgroup versions, where crun does not; limits may not be raised in containers.
CONFIGURATION = """\
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """Podman with images and containers below one folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        (folder / "containers.conf").write_text(CONFIGURATION)
        storage = ("--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "overlay")
        self.command = [str(program), *storage]
        self.environment = {**os.environ, "CONTAINERS_CONF": f"{folder}/containers.conf"}

    def run(self, *arguments: object, check: bool = True) -> str:
        """Run a podman command and return its output."""
        command = [*self.command, *map(str, arguments)]
        finished = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240)
        assert not check or finished.returncode == 0, finished.stderr
        return finished.stdout.strip()


@contextmanager
def podman(require: Callable[[str], Path]) -> Iterator[Podman]:
    """Yield podman in an empty folder; skip without root."""
    program = require("podman")
    require("runc")
    if os.geteuid() != 0:
        pytest.skip("podman of the tests' own needs root")
    folder = Path(tempfile.mkdtemp(prefix="ewp", dir="/tmp"))  # podman accepts 50 characters at most
    engine = Podman(program, folder)
    try:
        yield engine
    finally:
        engine.run("rm", "--all", "--force", "--time", "5", check=False)
        engine.run("rmi", "--all", "--force", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def podman_engine(require: Callable[[str], Path]) -> Iterator[DockerEngine]:
    """Yield podman's service, which the command line of docker and its libraries can use.

    It trusts the registries whose authority is in `ca.pem` of its folder before its first connection to one.
    """
    docker = require("docker")
    with podman(require) as engine, tempfile.TemporaryDirectory(prefix="ewp") as name:
        environment = {**engine.environment, "SSL_CERT_FILE": f"{name}/ca.pem"}  # Go reads it at the first connection
        command = [*engine.command, "system", "service", "--time", "0", f"unix://{name}/docker.sock"]
        daemon = Daemon(command, Path(name), environment)
        daemon.start()
        try:
            yield DockerEngine(Path(name), docker, daemon)
        finally:
            daemon.stop()
