"""The server's side of one worker process: start it, hand calls over, pass answers back, and report its end.

A call counts as begun when the worker has nothing to do before it. Further calls may be handed over ahead, so that a worker with
brief runs need not wait for the server. Each has a time until which it may start. The worker does not run it later, so the server
can take back what has not begun then. A frame of an answer is sent before the next call starts, so the server always knows which
calls have begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket as sockets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgewright.errors import BadInputError, EdgewrightError, OperationError
from edgewright.serving.scripts import messages
from edgewright.serving.scripts.messages import Answer, Started
from edgewright.serving.scripts.options import ScriptOptions, worker_environment
from edgewright.worker_process import describe_end

AHEAD_S = 0.002
"""Sum of the expected runs of the calls that are handed over ahead."""
MAX_AHEAD = 8
START_WITHIN_S = 0.02
"""Time from the hand-over of a call until which it must start; after that, it is taken back."""
_SMOOTHING = 8
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a call."""

    answer: Answer
    body: bytes
    run_s: float
    """Time in `run`, with decoding and encoding."""
    waited_s: float
    """Time before the call began."""


@dataclass(slots=True, eq=False)
class QueuedCall:
    """A call on its way through the queue and a worker."""

    head: bytes
    body: bytes
    receive: Callable[[Answered | EdgewrightError], None] | None
    """Gets the answer or the error; None once it has got one."""
    arrived_s: float
    """By the monotonic clock, as all times here."""
    queue_until_s: float
    """The call fails if it has not begun then."""
    start_by_s: float = math.inf
    """Time after which the worker does not start it."""
    begun_s: float | None = None
    runs_alone: bool = False
    """True if it may not be part of a batch, because the worker of its batch ended."""

    def deliver(self, outcome: Answered | EdgewrightError) -> None:
        """Pass the answer or the error on, once; this may lead to further calls."""
        if self.receive is not None:
            receive, self.receive = self.receive, None
            receive(outcome)


class WorkerConnection(asyncio.Protocol):
    """One worker process and the calls that it has in hand."""

    def __init__(self, subject: str, answered: Callable[[WorkerConnection], None]) -> None:
        """Prepare a connection; `answered` is called when calls have left the worker."""
        loop = asyncio.get_running_loop()
        self.is_alive = True
        self.started_at = time.monotonic()
        self.started = Started()
        self.end_reason = ""
        self.in_hand: dict[int, QueuedCall] = {}
        """By number, in the order of the hand-over."""
        self.not_run: list[QueuedCall] = []
        """Calls that the worker did not start, because their time had passed."""
        self._subject = subject
        self._answered = answered
        self._received = bytearray()
        self._count = 0
        self._mean_run_s = math.inf
        self._first_frame: asyncio.Future[Started | None] = loop.create_future()
        self._closed = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(cls, options: ScriptOptions, answered: Callable[[WorkerConnection], None]) -> WorkerConnection:
        """Start a process and wait for the end of `init`.

        Raises:
            BadInputError: the script or model cannot be used.
            OperationError: `init` failed, ended the process, or did not return in time.
        """
        worker = cls(options.subject, answered)
        ours, theirs = sockets.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", options.worker_module, str(theirs.fileno()), options.settings()]
            environment = worker_environment(options.worker_count)
            process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()], env=environment)
        worker._process = process
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        try:
            async with asyncio.timeout(options.init_timeout_s):
                worker.started = await worker._declarations(options)
        except TimeoutError:
            await worker._abandon()
            raise OperationError(f"{options.start} must end within {options.init_timeout_s:g} s, but it did not") from None
        except BaseException:
            await worker._abandon()
            raise
        worker.started_at = time.monotonic()
        return worker

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def room(self) -> int:
        """Calls that can be handed over now; 0 until about half of those that were handed over ahead have left."""
        started, count = self.started, len(self.in_hand)
        if started.max_batch_size:
            return 0 if count else started.max_batch_size
        if started.concurrency > 1:
            return started.concurrency - count
        depth = 1 + min(MAX_AHEAD, int(AHEAD_S / self._mean_run_s))
        return depth - count if count <= depth // 2 else 0

    def hand_over(self, calls: Sequence[QueuedCall]) -> None:
        """Send calls to the worker: as one batch if it takes batches, else one after the other."""
        now_s = time.monotonic()
        is_ahead_possible = self.started.concurrency == 1 and not self.started.max_batch_size
        frames = []
        for place, call in enumerate(calls):
            if self.in_hand and is_ahead_possible:
                call.start_by_s, call.begun_s = min(now_s + START_WITHIN_S, call.queue_until_s), None
            else:
                call.start_by_s, call.begun_s = math.inf, now_s
            self._count += 1
            self.in_hand[self._count] = call
            more = len(calls) - place - 1 if self.started.max_batch_size else 0
            frames.append(messages.call_frame(call.head, call.body, self._count, start_by_s=call.start_by_s, more=more))
        assert self._transport is not None
        self._transport.write(b"".join(frames) if len(frames) > 1 else frames[0])

    def take_back(self, as_of_s: float) -> list[QueuedCall]:
        """Return the calls that should have started before a time and have not; nothing is handed over ahead until an answer."""
        if self._received:  # the rest of an answer may have arrived in time
            return []
        late = [number for number, call in self.in_hand.items() if call.begun_s is None and call.start_by_s <= as_of_s]
        if late:
            self._mean_run_s = math.inf
        return [self.in_hand.pop(number) for number in late]

    def kill(self) -> None:
        """Kill the process; `connection_lost` follows."""
        self.is_alive = False
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # Process.kill() would take the exit code from asyncio's watcher

    async def end(self) -> None:
        """Close the connection, on which an idle worker ends; kill one that does not."""
        self.is_alive = False
        assert self._transport is not None
        assert self._process is not None
        self._transport.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def ended(self) -> None:
        """Wait for the end of the process and set `end_reason`."""
        assert self._process is not None
        await asyncio.shield(self._closed)
        self.end_reason = describe_end(await self._process.wait(), "")

    def failure(self) -> OperationError:
        """Return the error of a call that had begun when the process ended."""
        return OperationError(f"the worker of {self._subject} {self.end_reason} during this request")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert hasattr(transport, "write")  # uvloop's transports are no subclasses of asyncio.Transport
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Pass the complete frames on, and keep the rest."""
        received: bytes | bytearray = data
        if self._received:
            self._received += data
            received = self._received
        offset, end = 0, len(received)
        has_answers = False
        while end - offset >= messages.PREFIX_SIZE:
            prefix = messages.prefix_at(received, offset)
            head_at = offset + messages.PREFIX_SIZE
            body_at = head_at + prefix.head_size
            after = body_at + prefix.body_size
            if after > end:
                break
            self._on_frame(prefix.number, prefix.seconds, bytes(received[head_at:body_at]), bytes(received[body_at:after]))
            has_answers = True
            offset = after
        if received is self._received:
            del self._received[:offset]
        elif offset < end:
            self._received += received[offset:]
        if has_answers and self._first_frame.done():
            self._answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a process that has closed its connection."""
        self.kill()
        if not self._first_frame.done():
            self._first_frame.set_result(None)
        if not self._closed.done():
            self._closed.set_result(None)

    def _on_frame(self, number: int, seconds: float, head: bytes, body: bytes) -> None:
        if not self._first_frame.done():
            self._first_frame.set_result(messages.read_started(head))
            return
        call = self.in_hand.get(number)
        if call is None:  # taken back
            return
        del self.in_hand[number]
        following = next(iter(self.in_hand.values()), None)
        if following is not None and following.begun_s is None:
            following.begun_s = time.monotonic()
        mean_s = self._mean_run_s
        if seconds == messages.NOT_RUN_S:
            self._mean_run_s = math.inf
            self.not_run.append(call)
            return
        self._mean_run_s = seconds if mean_s == math.inf else max(seconds, mean_s + (seconds - mean_s) / _SMOOTHING)
        waited_s = 0.0 if call.begun_s is None else call.begun_s - call.arrived_s
        call.deliver(Answered(messages.read_answer(head), body, seconds, waited_s))

    async def _declarations(self, options: ScriptOptions) -> Started:
        started = await self._first_frame
        if started is None:
            assert self._process is not None
            end = describe_end(await self._process.wait(), "")
            raise OperationError(f"{options.start} must end, but its process {end}")
        if started.error:
            raise (BadInputError if started.is_input_error else OperationError)(started.error)
        return started

    async def _abandon(self) -> None:
        """Kill a process that did not start."""
        assert self._process is not None
        assert self._transport is not None
        self.kill()
        await self._process.wait()
        self._transport.close()
