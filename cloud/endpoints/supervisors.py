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
from pathlib import Path

import psutil

from edgewright.serving.supervision.service import ServiceFolder

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
