"""A real docker engine of the tests' own: its data, socket and bridge are removed afterwards, and nothing of the host is changed.

It has a bridge of its own, and neither sets iptables rules nor forwards packets: ports are published by its proxy process.
Registries on 127.0.0.0/8 need no certificate that the engine trusts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class DockerEngine:
    """A running engine and its command line."""

    folder: Path
    program: Path

    @property
    def host(self) -> str:
        """Address of the engine, as in DOCKER_HOST."""
        return f"unix://{self.folder / 'docker.sock'}"

    def run(self, *arguments: object, text: str = "", timeout_s: float = 120, check: bool = True) -> str:
        """Run a docker command and return its output, with that of its error stream."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.folder / "config")}
        command = [str(self.program), *map(str, arguments)]
        finished = subprocess.run(
            command, env=environment, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s
        )
        assert not check or finished.returncode == 0, f"{command}: {finished.stdout}"
        return finished.stdout.strip()


@contextmanager
def docker_engine(require: Callable[[str], Path]) -> Iterator[DockerEngine]:
    """Start an engine; skip without root, and fail with EDGEWRIGHT_REQUIRE=all.

    Its folder is not below pytest's: a killed run leaves mounts there, and pytest fails when it cannot remove an old folder.
    """
    daemon, program = require("dockerd"), require("docker")
    if os.geteuid() != 0:
        message = "a docker engine of the tests' own needs root"
        if os.environ.get("EDGEWRIGHT_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="edgewright-docker-"))
    bridge, network = f"ewt{os.getpid()}", f"172.{29 + os.getpid() // 250 % 2}.{os.getpid() % 250}.1/24"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", network, "dev", bridge], check=True)
        subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
        with _daemon(daemon, folder, bridge):
            engine = DockerEngine(folder, program)
            yield engine
            containers = engine.run("ps", "--all", "--quiet").split()
            if containers:
                engine.run("rm", "--force", *containers)
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=True)
        _unmount(folder)
        shutil.rmtree(folder)


def _unmount(folder: Path) -> None:
    """Unmount what an ended engine leaves: the namespace of a container with the network of the host."""
    mounts = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", str(mount)], check=True)


@contextmanager
def _daemon(daemon: Path, folder: Path, bridge: str) -> Iterator[None]:
    options = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid"]
    options += ["--host", f"unix://{folder}/docker.sock", "--bridge", bridge, "--iptables=false", "--ip-forward=false"]
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen([str(daemon), *options], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_ready(process, log_file)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + START_TIMEOUT_S
    while "API listen on" not in log.read_text():
        assert process.poll() is None, f"dockerd ended: {log.read_text()[-2000:]}"
        assert time.monotonic() < ends_at, f"dockerd is not ready after {START_TIMEOUT_S} s: {log.read_text()[-2000:]}"
        time.sleep(0.05)
