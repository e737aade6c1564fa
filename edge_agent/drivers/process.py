"""Run a slot as a server process: start it, wait until its model is loaded and scores its golden samples."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_agent.settings import ContainerSettings
from edge_agent.storage.integrity import DAMAGED_EXIT, DamagedSlotError
from edge_agent.storage.store import SlotRecord
from edgewright.contracts import wire
from edgewright.errors import OperationError
from edgewright.serving.supervision.process import ServerProcess

_log = logging.getLogger(__name__)
_MODULE = "edge_agent.scoring.runner"
_CONTAINER = "edge_agent.drivers.container"
_ROUTER = "edge_agent.scoring.router"
_LOADED = b"loaded\n"
OUTSIDE_EXIT = 75
"""Exit code of a driver whose failure is not the model's: the engine, the image, the limits (EX_TEMPFAIL of sysexits.h)."""
_READY = b"ready\n"  # edge_agent.scoring.runner.READY; importing it would load the inference runtime into the agent


class ModelFailedError(OperationError):
    """The runner ended with an error of the model: the variant cannot be loaded, or does not score as its source does."""


class NotStartedError(OperationError):
    """The runner could not be started, for a reason that is not the model's: the container engine, the image, a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """Options of every runner of this device."""

    backend: str
    threads: int | None
    load_timeout_s: float
    check_timeout_s: float
    drain_timeout_s: float
    inference_timeout_s: float
    container: ContainerSettings | None = None
    """Run each runner in a container; None runs it as a process."""


@dataclass(slots=True)
class ScoringSockets:
    """The sockets on which a runner listens: its workload's, and the agent's while its workload is the only one."""

    own: socket.socket
    agent: socket.socket | None


class Runner(ServerProcess):
    """A runner process whose model is loaded."""

    record: SlotRecord

    @classmethod
    async def run(cls, workload: str, record: SlotRecord, slot: Path, sockets: ScoringSockets, options: RunnerOptions) -> Runner:
        """Start a runner and wait until its model is loaded and scores its golden samples.

        Raises:
            DamagedSlotError: a file of the slot has changed.
            ModelFailedError: the runner ended with an error of the model.
            NotStartedError: its driver could not start it, as without an answer of the container engine.
            OperationError: the runner was killed, or it was not ready in time.
        """
        command = [sys.executable, "-m", *_program(options.container), "--slot", str(slot), "--socket", str(sockets.own.fileno())]
        command += [] if sockets.agent is None else ["--agent-socket", str(sockets.agent.fileno())]
        command += ["--workload", workload, "--model", record.running.model, "--version", str(record.running.version)]
        command += ["--backend", options.backend, "--inference-timeout", str(options.inference_timeout_s)]
        command += [] if options.threads is None else ["--threads", str(options.threads)]
        runner = await cls.start(
            command,
            sockets.own,
            *([sockets.agent] if sockets.agent is not None else []),
            on_line=lambda line: _log.debug("runner output line=%r", line),
        )
        runner.record = record
        try:
            ready = await runner.wrote(_LOADED, options.load_timeout_s, "be loaded")
            ready = ready and await runner.wrote(_READY, options.check_timeout_s, "score its golden samples")
        except BaseException:
            await runner.kill()
            raise
        if not ready:
            end = await runner.ended()
            if runner.exit_code == DAMAGED_EXIT:
                raise DamagedSlotError(f"{_name(record)} is damaged on this device: {runner.last_line}")
            if runner.exit_code == OUTSIDE_EXIT:
                raise NotStartedError(f"{_name(record)} must load, but its runner does not start: {runner.last_line}")
            raise (ModelFailedError if runner.crashed else OperationError)(f"{_name(record)} must load, but its runner {end}")
        return runner

    @property
    def crashed(self) -> bool:
        """True if the runner ended by its own fault; False if it was killed, or its driver ended for another reason."""
        return super().crashed and self.exit_code != OUTSIDE_EXIT

    def leave_agent_socket(self) -> None:
        """Let the runner stop to accept at the agent's address; its open requests there are answered."""
        self.signal(signal.SIGUSR1)

    async def wrote(self, line: bytes, timeout_s: float, step: str) -> bool:
        """Wait for a line of the runner's output; return False if the runner wrote another one or exited.

        Raises:
            OperationError: nothing was written in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self.read_line() == line
        except TimeoutError:
            raise OperationError(f"{_name(self.record)} must {step} within {timeout_s:g} s, but it did not") from None


def _program(container: ContainerSettings | None) -> list[str]:
    """Return the module of the runner, or of the driver that starts it in a container."""
    return [_MODULE] if container is None else [_CONTAINER, "--container", wire.encode(container).decode()]


def stop_orphaned_runners(slots: Path, timeout_s: float = 5.0) -> int:
    """End runners, and a router, of this state directory that outlived a killed agent; return their number."""
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
    is_runner = (_MODULE in command or _CONTAINER in command) and any(word.startswith(f"{slots}/") for word in command)
    return is_runner or (_ROUTER in command and any(word.startswith(f"{slots.parent}/") for word in command))


def _name(record: SlotRecord) -> str:
    return f"{record.running.model}:{record.running.version} ({record.running.variant})"
