"""Supervise one service: `python -m edgewright.serving.supervision.supervisor FOLDER NONCE`.

The supervisor owns the listening socket and starts server processes that inherit it. During an update or a restart, connections
wait in the queue of the socket, so none is refused. It runs in a session of its own, so it outlives the program that started it.

    read the desired service    at SIGHUP, and every second
    apply the rules             start and drain server processes (rules.py)
    write the status            after each change

SIGTERM drains all server processes and ends the supervisor; so does the removal of the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

from edgewright.serving.supervision.logs import open_log
from edgewright.serving.supervision.placeholder import Placeholder
from edgewright.serving.supervision.probe import PROBE_INTERVAL_S, answers
from edgewright.serving.supervision.process import ServerProcess
from edgewright.serving.supervision.rules import (
    MAX_START_FAILURES,
    History,
    Replica,
    Situation,
    after_deadline,
    after_end,
    after_ready,
    hanging_replica,
    next_actions,
    next_wake_at,
    state_of,
)
from edgewright.serving.supervision.service import (
    READY,
    SOCKET_VARIABLE,
    DesiredService,
    Generation,
    ServiceFolder,
    ServiceState,
    ServiceStatus,
)

POLL_INTERVAL_S = 1.0
BIND_RETRY_S = 0.2
BACKLOG = 1024
_log = logging.getLogger("edgewright.supervisor")


class Supervisor:
    """One service: its socket, its server processes and what is known of its generations."""

    def __init__(self, folder: ServiceFolder, nonce: str) -> None:
        self._folder = folder
        self._nonce = nonce
        self._write_line = open_log(folder.log)
        self._desired: DesiredService | None = None
        self._generations: dict[int, Generation] = {}
        self._histories: dict[int, History] = {}
        self._replicas: dict[int, Replica] = {}
        self._processes: dict[int, ServerProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: Generation | None = None
        self._socket: socket.socket | None = None
        self._placeholder: Placeholder | None = None
        self._bind_error = ""
        self._count = 0
        self._restarts = 0
        self._wake = asyncio.Event()
        self._answered_at = time.monotonic()
        self._stopping = False
        self._written: ServiceStatus | None = None

    async def run(self) -> None:
        """Keep the service running until SIGTERM, or until its folder is removed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._wake.set)
        before = self._folder.status()
        if before is not None and before.answering is not None:
            self._answering = before.answering
            self._know(before.answering)
            self._histories[before.answering.number] = History(was_ready=True)
        probing = asyncio.create_task(self._probe())
        while not self._stopping:
            self._wake.clear()
            await self._step(time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()
        probing.cancel()
        await self._end()

    def _stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def _step(self, now: float) -> None:
        desired = self._folder.desired()
        if desired is None:
            self._stopping = not self._folder.path.is_dir()
            return
        self._desired = desired
        self._know(desired.generation)
        if await self._bind(desired):
            number = desired.generation.number
            self._histories[number] = after_deadline(self._histories[number], desired.generation.start_timeout_s, now)
            actions = next_actions(self._situation(), now)
            for generation in actions.start:
                self._begin(self._generations[generation])
            for replica in actions.drain:
                self._begin_drain(replica)
            await self._show_placeholder()
        self._write_status()

    async def _probe(self) -> None:
        """Kill a server process that runs and does not answer; its end starts the next one."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            desired = self._desired
            if desired is None or await answers(desired.host, desired.port):
                self._answered_at = time.monotonic()
                continue
            silent_s = time.monotonic() - self._answered_at
            hanging = hanging_replica(tuple(self._replicas.values()), silent_s, desired.generation.hang_timeout_s)
            if hanging is not None and (process := self._processes.get(hanging.number)) is not None:
                self._write_line(f"killed server pid={process.pid} reason='no answer for {silent_s:.0f} s'")
                self._answered_at = time.monotonic()
                await process.kill()

    def _know(self, generation: Generation) -> None:
        self._generations.setdefault(generation.number, generation)
        self._histories.setdefault(generation.number, History(began_at=time.monotonic()))

    def _situation(self) -> Situation:
        assert self._desired is not None
        return Situation(
            desired=self._desired.generation.number,
            answering=None if self._answering is None else self._answering.number,
            wanted={number: generation.replicas for number, generation in self._generations.items()},
            replicas=tuple(self._replicas.values()),
            histories=self._histories,
        )

    def _pause_s(self) -> float:
        if self._socket is None:
            return BIND_RETRY_S
        wake_at = next_wake_at(self._situation()) if self._desired is not None else None
        return POLL_INTERVAL_S if wake_at is None else min(POLL_INTERVAL_S, max(0.0, wake_at - time.monotonic()))

    async def _bind(self, desired: DesiredService) -> bool:
        """Listen on the desired port; the previous socket stays until that works."""
        if self._socket is not None and self._socket.getsockname()[:2] == (desired.host, desired.port):
            return True
        try:
            opened = _listen(desired.host, desired.port)
        except OSError as error:
            reason = "another program uses it" if error.errno == errno.EADDRINUSE else str(error.strerror)
            self._bind_error = f"port {desired.port} of {desired.host} must be free, but {reason}"
            return False
        self._bind_error = ""
        if self._placeholder is not None:
            await self._placeholder.close()
        if self._socket is not None:  # server processes have the previous one: each needs a successor on the new one
            for number in list(self._replicas):
                self._begin_drain(number)
            self._socket.close()
        self._socket, self._placeholder = opened, Placeholder(opened, "the service is starting")
        return True

    async def _show_placeholder(self) -> None:
        """Answer 503 while no server process is ready and none is expected soon; else let connections wait in the queue."""
        assert self._placeholder is not None
        situation = self._situation()
        state, history = state_of(situation), self._histories[situation.desired]
        if any(each.is_ready for each in situation.replicas):
            await self._placeholder.close()
        elif state is ServiceState.FAILED and self._answering is None:
            await self._placeholder.open("the service failed to start: its log has the reason")
        elif state is ServiceState.STARTING and self._answering is None:
            await self._placeholder.open("the service is starting: try again in a few seconds")
        elif history.failures > MAX_START_FAILURES:
            await self._placeholder.open("the service ended several times and is started again: its log has the reason")

    def _begin(self, generation: Generation) -> None:
        self._count += 1
        self._replicas[self._count] = Replica(self._count, generation.number)
        self._run_task(self._keep(self._count, generation))

    def _begin_drain(self, number: int) -> None:
        """Drain a server process, or kill one that is not ready; it is no longer one of the replicas."""
        replica, process = self._replicas.pop(number), self._processes.pop(number, None)
        if process is not None:
            drain_timeout_s = self._generations[replica.generation].drain_timeout_s
            self._run_task(process.drain(drain_timeout_s) if replica.is_ready else process.kill())

    def _run_task(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, number: int, generation: Generation) -> None:
        """Run one server process until it ends or is drained."""
        assert self._socket is not None
        environment = {**os.environ, **generation.environment, SOCKET_VARIABLE: str(self._socket.fileno())}
        directory = Path(generation.directory)
        try:
            process = await ServerProcess.start(
                generation.command, self._socket, directory=directory, environment=environment, on_line=self._write_line
            )
        except OSError as error:
            self._ended(number, generation, None, 1, f"the server process cannot be started: {error}")
            return
        if number not in self._replicas:  # drained meanwhile
            await process.kill()
            return
        self._processes[number] = process
        ready_at: float | None = None
        self._write_line(f"started server pid={process.pid} generation={generation.number}")
        while line := await process.read_line():
            if line.startswith(READY) and ready_at is None:
                ready_at = time.monotonic()
                self._ready(number, generation)
            elif line.strip():
                self._write_line(line.decode("utf-8", "replace").rstrip())
        end = await process.ended()
        await process.kill()  # what is left of its process group
        self._processes.pop(number, None)
        self._write_line(f"server {end} pid={process.pid} generation={generation.number}")
        if number in self._replicas:
            ready_for_s = None if ready_at is None else time.monotonic() - ready_at
            reason = process.last_line if (process.exit_code or 0) > 0 else f"the server {end}"
            reason = reason.replace(f"{generation.directory}/", "")
            self._ended(number, generation, ready_for_s, process.exit_code or 0, reason)

    def _ready(self, number: int, generation: Generation) -> None:
        if number not in self._replicas:
            return
        self._replicas[number] = Replica(number, generation.number, is_ready=True)
        self._histories[generation.number] = after_ready(self._histories[generation.number])
        if self._answering is None or self._answering.number < generation.number:
            self._answering = generation
        self._wake.set()

    def _ended(self, number: int, generation: Generation, ready_for_s: float | None, exit_code: int, reason: str) -> None:
        self._replicas.pop(number, None)
        self._restarts += ready_for_s is not None
        self._histories[generation.number] = after_end(
            self._histories[generation.number],
            was_ready_for_s=ready_for_s,
            exit_code=exit_code,
            reason=reason,
            retry_for_s=generation.retry_for_s,
            now=time.monotonic(),
        )
        self._wake.set()

    def _write_status(self) -> None:
        if self._desired is None:
            return
        situation = self._situation()
        is_bound = self._socket is not None and not self._bind_error
        status = ServiceStatus(
            pid=os.getpid(),
            nonce=self._nonce,
            generation=situation.desired,
            state=state_of(situation) if is_bound else ServiceState.INTERRUPTED,
            reason=self._histories[situation.desired].reason if is_bound else self._bind_error,
            ready=sum(each.is_ready for each in situation.replicas),
            answering=self._answering,
            restarts=self._restarts,
        )
        if status != self._written:
            with contextlib.suppress(Exception):  # a full disk, or a folder that was removed meanwhile
                self._folder.write_status(status)
                self._written = status

    async def _end(self) -> None:
        if self._placeholder is not None:
            await self._placeholder.close()
        for number in list(self._replicas):
            self._begin_drain(number)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def main(path: Path, nonce: str) -> None:
    """Supervise the service in the folder `path`; end at once if another supervisor does."""
    folder = ServiceFolder(path)
    with folder.supervising() as is_first:
        if is_first:
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
            asyncio.run(Supervisor(folder, nonce).run())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
