"""Worker processes of an entry script: a queue in front of them, time limits, and replacement.

    a call                waits for a free worker, at most `queue_timeout_s`; then 503 with Retry-After
    a call takes long     after `scoring_timeout_s` it gets 504, and its worker is killed and replaced
    a worker ends         its calls get 500; it is replaced after a pause that doubles up to 5 s
    `init` takes long     after `init_timeout_s` the worker is killed, and the start fails

Defaults are those of Azure ML's AksWebservice: a wait of 500 ms, a run of 60 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket as sockets
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgewright.errors import BadInputError, OperationError
from edgewright.serving.http.messages import HttpError
from edgewright.serving.scripts import messages
from edgewright.serving.scripts.messages import Answer, Call, Started, WorkerSettings
from edgewright.worker_process import describe_end
from hardware_profiles.processors import usable_processors

_log = logging.getLogger(__name__)

SCRIPT_WORKER = "edgewright.serving.scripts.worker"
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_SETTLED_AFTER_S = 10.0
_END_S = 5.0


class ScriptTimeoutError(OperationError):
    """A call that the script did not answer in time."""

    http_status = 504


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptOptions:
    """An entry script or a model without one, and how it is run."""

    path: Path
    name: str = "model"
    """Of the model in routes and answers."""
    model_directory: Path | None = None
    worker_count: int = 1
    init_timeout_s: float = 300.0
    scoring_timeout_s: float = 60.0
    queue_timeout_s: float = 0.5
    max_waiting: int = 1000
    """Calls that may wait for a worker at the same time."""
    worker_module: str = SCRIPT_WORKER
    """The program of the worker processes."""
    trust: bool = False
    """True if the model file may hold code, as a pickle does."""

    @property
    def subject(self) -> str:
        """Name of what answers requests, for messages."""
        return "the script" if self.worker_module == SCRIPT_WORKER else "the model"

    @property
    def start(self) -> str:
        """Name of what a worker does first, for messages."""
        return f"init() of {self.path.name}" if self.worker_module == SCRIPT_WORKER else f"loading {self.path.name}"

    def settings(self) -> str:
        """Return the argument of a worker process."""
        directory = None if self.model_directory is None else str(self.model_directory.resolve())
        settings = WorkerSettings(path=str(self.path.resolve()), name=self.name, model_directory=directory, trust=self.trust)
        return msgspec.json.encode(settings).decode()


class ScriptPool:
    """The workers of one script; used from one event loop."""

    def __init__(self, options: ScriptOptions) -> None:
        self.started = Started()
        """Declarations of the script; known after `start`."""
        self._options = options
        self._workers: list[_Worker] = []
        self._free: deque[_Worker] = deque()
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def ready_count(self) -> int:
        """Workers that answer calls."""
        return sum(worker.is_alive for worker in self._workers)

    async def start(self) -> None:
        """Start all workers; return when each has called `init`.

        Raises:
            BadInputError: the script cannot be used.
            OperationError: `init` failed, ended the process, or did not return in time.
        """
        starts = [_Worker.start(self._options) for _ in range(self._options.worker_count)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        self._workers = [outcome for outcome in outcomes if isinstance(outcome, _Worker)]
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            await self.close()
            raise failures[0]
        self.started = self._workers[0].started
        for place, worker in enumerate(self._workers):
            self._offer(worker, worker.started.concurrency)
            self._keepers.append(asyncio.create_task(self._keep(place)))

    async def call(self, call: Call, body: bytes) -> tuple[Answer, bytes, float]:
        """Run the script on one request; return the answer, its body, and the seconds that the call waited.

        Raises:
            HttpError: no worker became free in time (503).
            ScriptTimeoutError: the script did not answer in time (504).
            OperationError: the worker process ended.
        """
        before_s = time.perf_counter()
        worker = await self._free_worker()
        while not worker.is_alive:
            worker = await self._free_worker()
        waited_s = time.perf_counter() - before_s
        try:
            async with asyncio.timeout(self._options.scoring_timeout_s):
                answer, raw = await worker.call(call, body)
        except TimeoutError:
            worker.kill()
            limit = f"{self._options.scoring_timeout_s:g} s"
            text = f"{self._options.subject} must answer within {limit}, but it did not; its worker is replaced"
            raise ScriptTimeoutError(text) from None
        self._offer(worker, 1)
        return answer, raw, waited_s

    async def close(self) -> None:
        """End all workers."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._workers))

    async def _free_worker(self) -> _Worker:
        while self._free:
            worker = self._free.popleft()
            if worker.is_alive:
                return worker
        text = f"every worker of {self._options.subject} is busy: try again in a second"
        busy = HttpError(503, text, (("retry-after", "1"),))
        if len(self._waiting) >= self._options.max_waiting:
            raise busy
        turn: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._options.queue_timeout_s):
                return await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():  # a worker became free in the same moment
                return turn.result()
            raise busy from None

    def _offer(self, worker: _Worker, times: int) -> None:
        """Give places of a worker to the calls that wait, in their order; keep the others free."""
        for _ in range(times if worker.is_alive else 0):
            while self._waiting and self._waiting[0].done():
                self._waiting.popleft()
            if self._waiting:
                self._waiting.popleft().set_result(worker)
            else:
                self._free.append(worker)

    async def _keep(self, place: int) -> None:
        """Replace the worker of one place whenever it ends, forever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            worker = self._workers[place]
            await worker.ended()
            if time.monotonic() - worker.started_at > _SETTLED_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            _log.warning("replacing a worker pid=%d reason=%r", worker.pid, worker.end_reason)
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                try:
                    self._workers[place] = await _Worker.start(self._options)
                except (OperationError, BadInputError) as error:
                    _log.error("cannot start a worker reason=%r", str(error))
                else:
                    break
            self._offer(self._workers[place], self._workers[place].started.concurrency)


class _Worker:
    """One worker process and the calls that it works on."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        started: Started,
        subject: str,
    ) -> None:
        self.started = started
        self._subject = subject
        self.started_at = time.monotonic()
        self.pid = process.pid
        self.is_alive = True
        self.end_reason = ""
        self._process = process
        self._reader, self._writer = reader, writer
        self._pending: dict[int, asyncio.Future[tuple[Answer, bytes]]] = {}
        self._count = 0
        self._receiving = asyncio.create_task(self._receive())

    @classmethod
    async def start(cls, options: ScriptOptions) -> _Worker:
        """Start a process and wait for the end of `init`."""
        ours, theirs = sockets.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", options.worker_module, str(theirs.fileno()), options.settings()]
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], env=worker_environment(options.worker_count)
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(options.init_timeout_s):
                started = await _started(reader, process, options)
        except TimeoutError:
            process.kill()
            await process.wait()
            writer.close()
            raise OperationError(f"{options.start} must end within {options.init_timeout_s:g} s, but it did not") from None
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            writer.close()
            raise
        return cls(process, reader, writer, started, options.subject)

    async def call(self, call: Call, body: bytes) -> tuple[Answer, bytes]:
        """Send a call and wait for its answer.

        Raises:
            OperationError: the process ended first.
        """
        if not self.is_alive:
            raise OperationError(f"the worker of {self._subject} ended before it took this request: try again")
        self._count += 1
        numbered = replace(call, number=self._count)
        answer: asyncio.Future[tuple[Answer, bytes]] = asyncio.get_running_loop().create_future()
        self._pending[numbered.number] = answer
        try:
            self._writer.write(messages.encode(numbered, body))
            return await answer
        finally:
            self._pending.pop(numbered.number, None)

    async def ended(self) -> None:
        """Wait for the end of the process."""
        await asyncio.shield(self._receiving)

    def kill(self) -> None:
        """Kill the process; calls that it works on fail."""
        self.is_alive = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Close the connection, on which an idle worker ends; kill one that does not."""
        self.is_alive = False
        self._writer.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        await asyncio.gather(self._receiving, return_exceptions=True)

    async def _receive(self) -> None:
        """Pass answers to their calls until the process ends; then fail the calls that are left."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head_size, body_size = messages.lengths(await self._reader.readexactly(messages.LENGTHS_SIZE))
                answer = messages.ANSWERS.decode(await self._reader.readexactly(head_size))
                body = await self._reader.readexactly(body_size)
                waiting = self._pending.get(answer.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result((answer, body))
        self._writer.close()
        self.kill()  # a process without its connection is of no use
        self.end_reason = describe_end(await self._process.wait(), "")
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(OperationError(f"the worker of {self._subject} {self.end_reason} during this request"))


async def _started(reader: asyncio.StreamReader, process: asyncio.subprocess.Process, options: ScriptOptions) -> Started:
    try:
        head_size, _ = messages.lengths(await reader.readexactly(messages.LENGTHS_SIZE))
        started = messages.STARTED.decode(await reader.readexactly(head_size))
    except (asyncio.IncompleteReadError, OSError):
        end = describe_end(await process.wait(), "")
        raise OperationError(f"{options.start} must end, but its process {end}") from None
    if started.error:
        raise (BadInputError if started.is_input_error else OperationError)(started.error)
    return started


def worker_environment(worker_count: int) -> dict[str, str]:
    """Return the environment of a worker, which sees the same packages as this process and its part of the processors."""
    paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    threads = {} if worker_count == 1 else {"OMP_NUM_THREADS": str(max(1, usable_processors() // worker_count))}
    return {**threads, **os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
