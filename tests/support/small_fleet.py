"""A real cloud and real agents as processes, for tests that kill them."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import urllib3

from edge_agent.state_directory import scoring_url
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.demo.processes import Shell, wait_until
from edgewright.demo.story import read_json

WAIT_S = 180.0


class SmallFleet:
    """One cloud, its devices, and a model `tiny`."""

    def __init__(self, directory: Path, processes: ExitStack) -> None:
        (directory / "logs").mkdir(parents=True)
        self.directory = directory
        self.shell = Shell(directory, directory / "logs")
        self.shell.environment["EDGEWRIGHT_CLOUD"] = str(directory / "cloud")
        self._processes = processes
        self.shell.run("packages", "keygen", "publisher.key")

    def start_cloud(self) -> subprocess.Popen[bytes]:
        """Start the cloud at the same address as before, and wait until it answers."""
        arguments = ["--state", "cloud", "--port", "0", "--trust", "publisher.key.pub"]
        process = self._processes.enter_context(self.shell.background("cloud", "cloud", "up", *arguments))
        wait_until(lambda: self.shell.query("devices", "list") is not None, what="the start of the cloud", timeout_s=WAIT_S)
        return process

    def enrol(self, device: str) -> None:
        """Enrol a device."""
        token = str(self.shell.json("devices", "token", "--device", device)["token"])
        self.shell.run("agent", "enrol", "--token", token, "--name", device, "--profile", "generic-x86-64", "--state", device)

    def start_agent(self, device: str) -> subprocess.Popen[bytes]:
        """Start a device's agent at the same scoring address as before."""
        arguments = ["agent", "run", "--state", device, "--port", "0"]
        return self._processes.enter_context(self.shell.background(device, *arguments))

    def publish(self, build: BuildDirectory, version: str) -> None:
        """Pack and publish a build directory; the annotation makes every version's package different."""
        package = f"package-{version}"
        self.shell.run("packages", "build", str(build.path), "-o", package, "--name", "tiny", "--annotation", f"build={version}")
        self.shell.run("publish", package, "--key", "publisher.key")

    def roll_out(self, version: int, *, waves: str, trial: str = "1s") -> int:
        """Start a rollout and return its number."""
        created = self.shell.json("rollouts", "create", f"tiny:{version}", "--waves", waves, "--trial", trial)
        return int(created["rollout"])

    def wait_for_rollout(self, rollout: int, state: str) -> dict[str, Any]:
        """Wait until a rollout is in `state` and return its record."""
        record: dict[str, Any] = {}

        def reached() -> bool:
            record.update(self.shell.json("rollouts", "show", str(rollout)))
            return bool(record["state"] == state)

        wait_until(reached, what=f"rollout {rollout} {state}", timeout_s=WAIT_S)
        return record

    def device(self, name: str) -> dict[str, Any]:
        """Return a device's record in the cloud."""
        record: dict[str, Any] = self.shell.json("devices", "show", name)
        return record

    def answers(self, device: str) -> bool:
        """Return True if a device answers a scoring request now."""
        url = scoring_url(self.directory / device)
        if url is None:
            return False
        body = b'{"data": [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]}'
        try:
            return urllib3.request("POST", f"{url}/score", body=body, retries=False, timeout=10.0).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def cloud_port(self) -> int:
        """Return the port of the cloud."""
        return int(str(read_json(self.directory / "cloud" / "client.json")["url"]).rsplit(":", 1)[1])


def pull_the_plug(process: subprocess.Popen[bytes]) -> None:
    """End a process as a power cut does."""
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
