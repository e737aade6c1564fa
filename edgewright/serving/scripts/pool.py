"""Worker processes of an entry script: a queue in front of them, time limits, and replacement.

    a call                waits for a free worker, at most `queue_timeout_s`; then 503 with Retry-After
    a call takes long     after `scoring_timeout_s` it gets 504, and its worker is killed and replaced
    a worker ends         the calls that had begun get 500; it is replaced after a pause that doubles up to 5 s
    `init` takes long     after `init_timeout_s` the worker is killed, and the start fails

A call that was handed over and has not begun returns to the queue when its worker ends, or when it does not begin soon
(connection.py). So does a call of a batch whose worker ended, because another one may be the cause; it then runs alone.
One timer serves all time limits.

Defaults are those of Azure ML's AksWebservice: a wait of 500 ms, a run of 60 s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from edgewright.errors import BadInputError, EdgewrightError, OperationError
from edgewright.serving.http.messages import HttpError
from edgewright.serving.scripts import messages
from edgewright.serving.scripts.connection import START_WITHIN_S, Answered, QueuedCall, WorkerConnection
from edgewright.serving.scripts.messages import Call, Started
from edgewright.serving.scripts.options import ScriptOptions

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_SETTLED_AFTER_S = 10.0
_CONFIRM_S = 0.005


class ScriptTimeoutError(OperationError):
    """A call that the script did not answer in time."""

    http_status = 504


class ScriptPool:
    """The workers of one script; used from one event loop."""

    def __init__(self, options: ScriptOptions) -> None:
        self.started = Started()
        """Declarations of the script; known after `start`."""
        self._options = options
        self._workers: list[WorkerConnection] = []
        self._queue: deque[QueuedCall] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self._is_scheduled = False

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
        starts = [WorkerConnection.start(self._options, self._on_answers) for _ in range(self._options.worker_count)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        self._workers = [outcome for outcome in outcomes if isinstance(outcome, WorkerConnection)]
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            await self.close()
            raise failures[0]
        self.started = self._workers[0].started
        self._keepers = [asyncio.create_task(self._keep(place)) for place in range(len(self._workers))]

    async def call(self, call: Call, body: bytes) -> Answered:
        """Run the script on one request; return the answer and its times.

        Raises:
            HttpError: no worker became free in time (503).
            ScriptTimeoutError: the script did not answer in time (504).
            OperationError: the worker process ended.
        """
        delivered: asyncio.Future[Answered | EdgewrightError] = asyncio.get_running_loop().create_future()
        self.submit(call, body, delivered.set_result)
        outcome = await delivered
        if isinstance(outcome, EdgewrightError):
            raise outcome
        return outcome

    def submit(self, call: Call, body: bytes, receive: Callable[[Answered | EdgewrightError], None]) -> None:
        """Run the script on one request; `receive` gets the answer, or one of the errors of `call`, in the event loop.

        Raises:
            HttpError: too many calls wait (503).
        """
        if len(self._queue) >= self._options.max_waiting:
            raise self._busy()
        now_s = time.monotonic()
        until_s = now_s + self._options.queue_timeout_s
        self._queue.append(QueuedCall(messages.head_of(call), body, receive, now_s, until_s))
        if not self.started.max_batch_size:
            self._hand_over()
        elif not self._is_scheduled:  # after the other requests that have arrived in this turn of the event loop
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._expect_by(until_s if self._queue else now_s + self._options.scoring_timeout_s)

    async def close(self) -> None:
        """End all workers; calls that are left fail."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._workers))
        left = [*self._queue, *(call for worker in self._workers for call in worker.in_hand.values())]
        self._queue.clear()
        for call in left:
            call.deliver(OperationError(f"the worker of {self._options.subject} was ended: try again"))
        if self._timer is not None:
            self._timer.cancel()

    def _hand_over(self) -> None:
        """Give queued calls to the workers that have room; those with the fewest calls first."""
        self._is_scheduled = False
        while self._queue:
            with_room = [worker for worker in self._workers if worker.is_alive and worker.room > 0]
            if not with_room:
                return
            worker = min(with_room, key=lambda each: len(each.in_hand))
            share = -(-len(self._queue) // len(with_room))
            calls = self._taken(worker.room if worker.started.max_batch_size else min(worker.room, share))
            worker.hand_over(calls)
            if calls[-1].begun_s is None:
                self._expect_by(time.monotonic() + START_WITHIN_S)

    def _taken(self, count: int) -> list[QueuedCall]:
        """Remove up to `count` calls from the queue; one that runs alone is the only one."""
        calls: list[QueuedCall] = []
        while self._queue and len(calls) < count:
            if calls and (self._queue[0].runs_alone or calls[0].runs_alone):
                break
            calls.append(self._queue.popleft())
        return calls

    def _on_answers(self, worker: WorkerConnection) -> None:
        if worker.not_run:
            self._return_to_queue(worker.not_run)
            worker.not_run = []
        if self._queue:
            self._hand_over()

    def _return_to_queue(self, calls: list[QueuedCall]) -> None:
        """Put calls first in the queue, in the order of their arrival."""
        self._queue.extendleft(reversed(calls))
        if calls:
            self._expect_by(min(call.queue_until_s for call in calls))

    def _expect_by(self, deadline_s: float) -> None:
        """Check the time limits at a time, or earlier."""
        if self._timer is not None:
            if self._timer_at_s <= deadline_s:
                return
            self._timer.cancel()
        self._timer_at_s = deadline_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline_s - time.monotonic()), self._confirm)

    def _confirm(self) -> None:
        """Apply the limits a little later: an answer that has arrived meanwhile is received first."""
        self._timer = asyncio.get_running_loop().call_later(_CONFIRM_S, self._expire, time.monotonic())
        self._timer_at_s = 0.0

    def _expire(self, as_of_s: float) -> None:
        """End what was due at a time, and set the timer for what is due next."""
        self._timer = None
        limit_s = self._options.scoring_timeout_s
        deadlines: list[float] = []
        for worker in self._workers:
            self._return_to_queue(worker.take_back(as_of_s))
            late = [call for call in worker.in_hand.values() if call.begun_s is not None and call.begun_s + limit_s <= as_of_s]
            if late:
                worker.kill()
            for call in late:
                text = f"{self._options.subject} must answer within {limit_s:g} s, but it did not; its worker is replaced"
                call.deliver(ScriptTimeoutError(text))
            deadlines += [call.start_by_s if call.begun_s is None else call.begun_s + limit_s for call in worker.in_hand.values()]
        while self._queue and self._queue[0].queue_until_s <= as_of_s:
            self._queue.popleft().deliver(self._busy())
        self._hand_over()
        if self._queue:
            deadlines.append(self._queue[0].queue_until_s)
        if deadlines:
            self._expect_by(max(min(deadlines), time.monotonic()))

    def _busy(self) -> HttpError:
        text = f"every worker of {self._options.subject} is busy: try again in a second"
        return HttpError(503, text, (("retry-after", "1"),))

    async def _keep(self, place: int) -> None:
        """Replace the worker of one place whenever it ends, forever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            worker = self._workers[place]
            await worker.ended()
            self._release(worker)
            if time.monotonic() - worker.started_at > _SETTLED_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            _log.warning("replacing a worker pid=%d reason=%r", worker.pid, worker.end_reason)
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                try:
                    self._workers[place] = await WorkerConnection.start(self._options, self._on_answers)
                except (OperationError, BadInputError) as error:
                    _log.error("cannot start a worker reason=%r", str(error))
                else:
                    break
            self._hand_over()

    def _release(self, worker: WorkerConnection) -> None:
        """Fail the calls that an ended worker had begun, and return the others to the queue."""
        calls = list(worker.in_hand.values())
        worker.in_hand.clear()
        is_batch = worker.started.max_batch_size > 0 and len(calls) > 1
        returned = []
        for call in calls:
            if is_batch:
                call.runs_alone = True
                call.queue_until_s = time.monotonic() + self._options.queue_timeout_s
            if is_batch or call.begun_s is None:
                returned.append(call)
            else:
                call.deliver(worker.failure())
        self._return_to_queue([call for call in returned if call.receive is not None])
        self._hand_over()
