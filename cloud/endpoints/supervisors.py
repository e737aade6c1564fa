"""Supervisor processes of endpoints: start, notify and stop them. They outlive this process, and are found again by their lock.

A process is signalled only if its command line has the nonce of the status file: another program may have got its id.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgewright.errors import OperationError
from edgewright.serving.supervision.service import ServiceFolder, ServiceState

_MODULE = "edgewright.serving.supervision.supervisor"
START_INTERVAL_S = 1.0
"""Minimum time between two starts of the same supervisor."""
KILL_AFTER_S = 60.0
"""Time for the requests of a deleted endpoint."""


class Supervisors:
    """The supervisors that this process has started or stopped."""

    def __init__(self) -> None:
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._started_s: dict[Path, float] = {}
        self._stopped_s: dict[Path, float] = {}

    def start(self, folder: ServiceFolder) -> None:
        """Start a supervisor in a session of its own, at most one a second for each endpoint."""
        self.reap(folder)
        now_s = time.monotonic()
        if folder.path in self._children or now_s - self._started_s.get(folder.path, -START_INTERVAL_S) < START_INTERVAL_S:
            return
        self._started_s[folder.path] = now_s
        self._stopped_s.pop(folder.path, None)
        paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
        with (folder.path / "supervisor.log").open("wb") as log:
            self._children[folder.path] = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(folder.path), secrets.token_hex(8)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths},
            )

    def stop(self, folder: ServiceFolder) -> None:
        """End a supervisor: SIGTERM once, which drains its servers, and SIGKILL after `KILL_AFTER_S`."""
        process = _process_of(folder)
        if process is None:
            return
        now_s = time.monotonic()
        began_s = self._stopped_s.setdefault(folder.path, now_s)
        with suppress(psutil.NoSuchProcess):
            if began_s == now_s:
                process.terminate()
            elif now_s - began_s > KILL_AFTER_S:
                process.kill()

    def reap(self, folder: ServiceFolder) -> None:
        """Collect the exit code of a supervisor that has ended."""
        child = self._children.get(folder.path)
        if child is not None and child.poll() is not None:
            del self._children[folder.path]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """An endpoint whose supervisor runs, with or without the cloud."""

    endpoint: str
    address: str
    state: ServiceState | None


def running_services(state: Path) -> list[RunningService]:
    """Return the endpoints of a state directory whose supervisors run."""
    found = []
    for folder in sorted((state / "endpoints").glob("[!.]*")):
        service = ServiceFolder(folder)
        desired, status = service.desired(), service.status()
        if desired is not None and service.is_supervised():
            address = f"http://{desired.host}:{desired.port}"
            found.append(RunningService(endpoint=folder.name, address=address, state=None if status is None else status.state))
    return found


def stop_services(state: Path, *, timeout_s: float = KILL_AFTER_S + 10) -> None:
    """Drain and end all endpoints of a state directory; the next start of the cloud starts them again.

    Raises:
        OperationError: one still runs after `timeout_s`.
    """
    supervisors, ends_at = Supervisors(), time.monotonic() + timeout_s
    while services := running_services(state):
        for each in services:
            supervisors.stop(ServiceFolder(state / "endpoints" / each.endpoint))
        if time.monotonic() > ends_at:
            raise OperationError(f"endpoint {services[0].endpoint} must end within {timeout_s:g} s, but it still runs")
        time.sleep(0.05)


def notify(folder: ServiceFolder) -> None:
    """Make a running supervisor read its desired service now; it would do so within a second anyway."""
    process = _process_of(folder)
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGHUP)


def _process_of(folder: ServiceFolder) -> psutil.Process | None:
    """Return the process of a running supervisor; None without one, or before its first status."""
    status = folder.status()
    if status is None or not folder.is_supervised():
        return None
    try:
        process = psutil.Process(status.pid)
        command = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if _MODULE in command and status.nonce in command else None
