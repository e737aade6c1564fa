"""A hub in a separate process on a loopback address of its own, because Azure's client libraries always use the port 8883."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud.iothub.client import HubClient

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240


@dataclass
class RunningHub:
    """One hub; `start` and `kill` may follow each other."""

    state: Path
    host: str
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    started: dict[str, Any] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        return self.state / "ca.pem"

    @property
    def log(self) -> Path:
        return self.state.parent / f"{self.state.name}.log"

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "edgewright",
            "iothub",
            "up",
            "--state",
            str(self.state),
            "--host",
            self.host,
            "--json",
            "-v",
        ]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--host", self.host, *self.options], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        assert lines, self.log.read_text()
        self.started = json.loads("".join(lines))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def client(self) -> HubClient:
        return HubClient.connect(self.state)

    def calls(self, python: Path, *scenarios: str, **given: Any) -> subprocess.Popen[str]:
        """Start scenarios of `azure_iot_calls.py`."""
        environment = {**os.environ, "REQUESTS_CA_BUNDLE": str(self.ca)}
        process = subprocess.Popen(
            [str(python), "-m", "tests.support.azure_iot_calls", *scenarios],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        assert process.stdin is not None
        process.stdin.write(
            json.dumps({"service": self.client().service_connection_string(), "ca": str(self.ca), **given}) + "\n"
        )
        process.stdin.flush()
        return process

    def call(self, python: Path, *scenarios: str, **given: Any) -> Any:
        """Run scenarios of `azure_iot_calls.py` and return their results."""
        return finish(self.calls(python, *scenarios, **given))


def finish(process: subprocess.Popen[str], text: str = "") -> Any:
    """Return the results of started scenarios."""
    out, errors = process.communicate(text, timeout=TIMEOUT_S)
    assert process.returncode == 0, errors[-4000:]
    return json.loads(out.splitlines()[-1])


@contextlib.contextmanager
def running_hub(folder: Path, *options: str) -> Iterator[RunningHub]:
    """Run a hub while the block runs."""
    hub = RunningHub(folder / "hub", free_address(), options)
    hub.start()
    try:
        yield hub
    finally:
        if hub.process is not None:
            hub.kill(signal.SIGTERM)


def free_address() -> str:
    """Return a loopback address whose port 8883 is free."""
    while True:
        host = f"127.{random.randint(10, 250)}.{random.randint(1, 250)}.{random.randint(2, 250)}"
        with contextlib.suppress(OSError), socket.create_server((host, 8883)):
            return host
