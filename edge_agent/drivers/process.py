"""Run a slot as a process: start it and wait until its model is loaded, drain its requests and stop it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_agent.storage.integrity import DAMAGED_EXIT, DamagedSlotError
from edge_agent.storage.store import SlotRecord
from edgewright.errors import OperationError
from edgewright.worker_process import describe_end

_log = logging.getLogger(__name__)
_MODULE = "edge_agent.scoring.runner"
_LOADED = b"loaded\n"
_READY = b"ready\n"  # edge_agent.scoring.runner.READY; importing it would load the inference runtime into the agent
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """Options of every runner of this device."""

    backend: str
    threads: int | None
    load_timeout_s: float
    check_timeout_s: float
    drain_timeout_s: float
    inference_timeout_s: float


class Runner:
    """A runner process whose model is loaded."""

    def __init__(self, record: SlotRecord, process: Process) -> None:
        self.record = record
        self._process = process
        self._stderr_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._stderr_reader = asyncio.create_task(_read_stderr(process, self._stderr_lines))

    @classmethod
    async def start(cls, record: SlotRecord, slot: Path, server_socket: socket.socket, options: RunnerOptions) -> Runner:
        """Start a runner and wait until its model is loaded and scores its golden samples.

        Raises:
            DamagedSlotError: a file of the slot has changed.
            OperationError: the runner exited, or it was not ready in time.
        """
        command = [sys.executable, "-m", _MODULE, "--slot", str(slot), "--socket", str(server_socket.fileno())]
        command += ["--model", record.running.model, "--version", str(record.running.version)]
        command += ["--backend", options.backend, "--inference-timeout", str(options.inference_timeout_s)]
        command += [] if options.threads is None else ["--threads", str(options.threads)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=[server_socket.fileno()], start_new_session=True
        )
        runner = cls(record, process)
        try:
            ready = await runner.wrote(_LOADED, options.load_timeout_s, "be loaded")
            ready = ready and await runner.wrote(_READY, options.check_timeout_s, "score its golden samples")
        except BaseException:
            await runner.kill()
            raise
        if not ready:
            end = await runner.ended()
            if process.returncode == DAMAGED_EXIT:
                raise DamagedSlotError(f"{_name(record)} is damaged on this device: {runner.last_line}")
            raise OperationError(f"{_name(record)} must load, but its runner {end}")
        return runner

    async def wrote(self, line: bytes, timeout_s: float, step: str) -> bool:
        """Wait for a line of the runner's output; return False if the runner wrote another one or exited.

        Raises:
            OperationError: nothing was written in time.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._process.stdout.readline() == line
        except TimeoutError:
            raise OperationError(f"{_name(self.record)} must {step} within {timeout_s:g} s, but it did not") from None

    @property
    def last_line(self) -> str:
        """The last line of the runner's error output, without the prefix of its command line."""
        return self._stderr_lines[-1].removeprefix("Error: ") if self._stderr_lines else "no message"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process.returncode is None

    @property
    def crashed(self) -> bool:
        """True if the process ended by its own fault; False if it was killed from outside."""
        code = self._process.returncode
        return code is not None and -code not in (signal.SIGKILL, signal.SIGTERM)

    async def ended(self) -> str:
        """Wait for the exit of the process and return its cause."""
        code = await self._process.wait()
        await self._stderr_reader
        return describe_end(code, self._stderr_lines[-1] if self._stderr_lines else "")

    async def drain(self, timeout_s: float) -> None:
        """Let the runner finish its requests and exit; kill it after `timeout_s`."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended()
        except TimeoutError:
            _log.warning("killed runner pid=%d reason=%r", self.pid, f"did not drain within {timeout_s:g} s")
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()
        assert self._process.stdin is not None
        self._process.stdin.close()


def stop_orphaned_runners(slots: Path, timeout_s: float = 5.0) -> int:
    """End runners of this state directory that outlived a killed agent; return their number."""
    orphans = [process for process in psutil.process_iter(["cmdline"]) if _is_runner_of(process.info["cmdline"] or [], slots)]
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(orphans, timeout=timeout_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_s)
    return len(orphans)


def _is_runner_of(command: list[str], slots: Path) -> bool:
    return _MODULE in command and any(word.startswith(f"{slots}/") for word in command)


async def _read_stderr(process: Process, lines: deque[str]) -> None:
    """Keep the last lines of the runner's error output, which explain its exit; a full pipe would block the runner."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        lines.append(line.decode("utf-8", "replace").rstrip())
        _log.debug("runner output pid=%d line=%r", process.pid, lines[-1])


def _name(record: SlotRecord) -> str:
    return f"{record.running.model}:{record.running.version} ({record.running.variant})"
