"""Run edgewright's own commands as a user would: print each command, and end every background process."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from accel.npu.link.discovery import DEVICE_VARIABLE, NO_DEVICE
from edgewright.errors import OperationError, last_line

STOP_S = 15.0
COMMAND_S = 300.0


class Shell:
    """Runner of `edgewright` commands in one directory; it prints each command, with dots for secrets."""

    def __init__(self, directory: Path, log_directory: Path) -> None:
        self.directory = directory
        self.log_directory = log_directory
        self.environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
        self.environment.setdefault(DEVICE_VARIABLE, NO_DEVICE)  # only the device may open the board

    def run(self, *arguments: str, secret: str | None = None) -> str:
        """Run a command and return its output.

        Raises:
            OperationError: it failed; the text has its last line.
        """
        finished = self.attempt(*arguments, secret=secret)
        if finished.returncode != 0:
            last = last_line(finished.stderr or finished.stdout)
            raise OperationError(f"'edgewright {arguments[0]}' ended with {finished.returncode}: {last}")
        return finished.stdout

    def attempt(
        self, *arguments: str, secret: str | None = None, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail.

        Raises:
            OperationError: it did not end within `timeout_s`.
        """
        shown = ["…" if argument == secret else argument for argument in arguments if argument != "--json"]
        click.secho(f"  $ edgewright {shlex.join(shown)}", fg="cyan")
        command = [sys.executable, "-m", "edgewright", *arguments]
        try:
            return subprocess.run(
                command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            raise OperationError(f"'edgewright {arguments[0]}' must end within {timeout_s:.0f} s, but it did not") from error

    def query(self, *arguments: str) -> Any | None:
        """Run a command with `--json` without printing it; return its document, or None if it fails."""
        command = [sys.executable, "-m", "edgewright", *arguments, "--json"]
        finished = subprocess.run(command, cwd=self.directory, env=self.environment, capture_output=True, check=False)
        return json.loads(finished.stdout) if finished.returncode == 0 else None

    def json(self, *arguments: str) -> Any:
        """Run a command with `--json` and return its document."""
        return json.loads(self.run(*arguments, "--json"))

    def program(self, module: str, *arguments: str) -> str:
        """Run a Python module and return its output; raises what `run` raises."""
        click.secho(f"  $ python -m {module} {' '.join(arguments)}", fg="cyan")
        command = [sys.executable, "-m", module, *arguments]
        finished = subprocess.run(command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise OperationError(f"'python -m {module}' ended with {finished.returncode}: {last_line(finished.stderr)}")
        return finished.stdout

    @contextmanager
    def background(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command until the block ends; its output goes to its own log file."""
        click.secho(f"  $ edgewright {shlex.join(arguments)} &", fg="cyan")
        with (self.log_directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgewright", *arguments],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            stop(process)

    def log_tail(self, name: str) -> str:
        """Return the last line in the log of a background command."""
        return last_line((self.log_directory / f"{name}.log").read_text("utf-8", errors="replace"))


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process with SIGTERM, and with SIGKILL if it does not end in time."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)


def wait_until(holds: Callable[[], bool], *, what: str, timeout_s: float, step_s: float = 0.1) -> None:
    """Wait until `holds()` is true.

    Raises:
        OperationError: it was not true within `timeout_s`; the text names `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise OperationError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(step_s)
