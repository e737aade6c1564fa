"""A real docker engine of the tests' own: its data, socket and bridge are removed afterwards, and nothing of the host is changed.

It has a bridge of its own, and neither sets iptables rules nor forwards packets: ports are published by its proxy process.
Registries on 127.0.0.0/8 need no certificate that the engine trusts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_TIMEOUT_S = 60.0


class Daemon:
    """The process of an engine, which keeps its data from one start to the next."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        """Describe a process that listens at `docker.sock` of a folder."""
        self._command = [*command]
        self._folder = folder
        self._environment = environment

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        log_file = self._folder / "log"
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ends_at = time.monotonic() + START_TIMEOUT_S
        while not _answers(self._folder / "docker.sock"):
            assert self._process.poll() is None, f"{self._command[0]} ended: {log_file.read_text()[-2000:]}"
            assert time.monotonic() < ends_at, f"not ready after {START_TIMEOUT_S} s: {log_file.read_text()[-2000:]}"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the process alone; its containers run on."""
        self._process.kill()
        self._process.wait(30)
        # Docker's containerd ends too; where process 1 does not reap it at once, docker would take it for running.
        (self._folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End the process and its containers."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


@dataclass(frozen=True)
class DockerEngine:
    """A running engine and its command line."""

    folder: Path
    program: Path
    daemon: Daemon

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
    require("dockerd")
    program = require("docker")
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
        options = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid"]
        options += ["--host", f"unix://{folder}/docker.sock", "--bridge", bridge, "--iptables=false", "--ip-forward=false"]
        daemon = Daemon([str(require("dockerd")), *options], folder)
        try:
            daemon.start()
            engine = DockerEngine(folder, program, daemon)
            yield engine
            containers = engine.run("ps", "--all", "--quiet").split()
            if containers:
                engine.run("rm", "--force", *containers)
        finally:
            daemon.stop()
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=True)
        _unmount(folder)
        shutil.rmtree(folder)


def _answers(path: Path) -> bool:
    """Return True if the engine at a socket answers (GET /_ping of its API)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in client.recv(100)
    return False


def _unmount(folder: Path) -> None:
    """Unmount what an ended engine leaves: the namespace of a container with the network of the host."""
    mounts = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", str(mount)], check=True)
