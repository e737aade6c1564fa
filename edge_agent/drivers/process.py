"""Run a slot as a process: start it and wait until its model is loaded, end it when its requests are through."""

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

from edge_agent.storage.store import SlotRecord
from edgewright.errors import OperationError
from edgewright.worker_process import describe_end

_log = logging.getLogger(__name__)
_MODULE = "edge_agent.scoring.runner"
_READY = b"ready\n"  # edge_agent.scoring.runner.READY, which cannot be imported here: it brings the runtime along
_KEPT_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """What is the same for every runner of this device."""

    backend: str
    threads: int | None
    load_timeout_s: float
    drain_timeout_s: float


class Runner:
    """A runner process whose model is loaded."""

    def __init__(self, record: SlotRecord, process: Process, said: deque[str], listening: asyncio.Task[None]) -> None:
        self.record = record
        self._process = process
        self._said = said
        self._listening = listening

    @classmethod
    async def start(cls, record: SlotRecord, slot: Path, listening: socket.socket, options: RunnerOptions) -> Runner:
        """Start a runner; raise `OperationError` when it ends, or is not ready, within its time."""
        command = [sys.executable, "-m", _MODULE, "--slot", str(slot), "--socket", str(listening.fileno())]
        command += ["--model", record.running.model, "--version", str(record.running.version)]
        command += ["--backend", options.backend]
        command += [] if options.threads is None else ["--threads", str(options.threads)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=[listening.fileno()], start_new_session=True
        )
        said: deque[str] = deque(maxlen=_KEPT_LINES)
        runner = cls(record, process, said, asyncio.create_task(_listen(process, said)))
        try:
            async with asyncio.timeout(options.load_timeout_s):
                assert process.stdout is not None
                ready = await process.stdout.readline() == _READY
        except TimeoutError:
            await runner.kill()
            raise OperationError(f"{_name(record)} must be loaded within {options.load_timeout_s:g} s, but it was not") from None
        except BaseException:
            await runner.kill()
            raise
        if not ready:
            raise OperationError(f"{_name(record)} must load, but its runner {await runner.ended()}")
        return runner

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Tell whether the process is there."""
        return self._process.returncode is None

    async def ended(self) -> str:
        """Wait for the end, and say in words how it came."""
        code = await self._process.wait()
        await self._listening
        return describe_end(code, self._said[-1] if self._said else "")

    async def drain(self, timeout_s: float) -> None:
        """Ask the runner to finish its requests and end; kill it after `timeout_s`."""
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
        """End the process at once."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()
        assert self._process.stdin is not None
        self._process.stdin.close()


def end_leftovers(slots: Path, timeout_s: float = 5.0) -> int:
    """End runners of this state directory that outlived a killed agent; return how many there were."""
    leftovers = [process for process in psutil.process_iter(["cmdline"]) if _is_runner_of(process.info["cmdline"] or [], slots)]
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(leftovers, timeout=timeout_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_s)
    return len(leftovers)


def _is_runner_of(command: list[str], slots: Path) -> bool:
    return _MODULE in command and any(word.startswith(f"{slots}/") for word in command)


async def _listen(process: Process, said: deque[str]) -> None:
    """Keep the last lines of the runner's error stream: they say why it ended, and an unread pipe would stop it."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        said.append(line.decode("utf-8", "replace").rstrip())
        _log.debug("runner_said pid=%d line=%r", process.pid, said[-1])


def _name(record: SlotRecord) -> str:
    return f"{record.running.model}:{record.running.version} ({record.running.variant})"
