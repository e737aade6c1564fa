"""Batching without a delay: all requests that wait when the model becomes free share one run.

A single request runs alone at the end of the same iteration of the event loop. Requests that arrive during a run share the next
one. On small models that saves a third to half of the processor time; a batching window would delay every single request by
its length.

Runs happen in a worker thread, so that the event loop keeps answering. A model runs in the event loop itself while that is
cheaper than the hand-over to the thread, which is so if nearly all of its last runs took under half a millisecond. That saves
a third to two thirds of the processor time of a small model's request.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from accel.backends.backend import Session
from edgewright.contracts.samples import Tensors
from edgewright.errors import OperationError
from edgewright.serving.http.messages import HttpError
from edgewright.serving.variants.run_times import RunTimes

MAX_SAMPLES_PER_RUN = 64
BRIEF_S = 0.0005
LAST_RUNS = 16
MIN_BRIEF_RUNS = 12
"""Number of the last runs that must have been brief; the others may have run on a busy processor."""

_Shapes = tuple[tuple[int, ...], ...]
Deliver = Callable[[Tensors | Exception], None]
"""Takes the outputs of a request, or its error."""

_log = logging.getLogger(__name__)


class _Waiting:
    """A request with checked inputs that waits for its outputs."""

    __slots__ = ("arrived_s", "count", "deliver", "inputs", "is_answered", "shapes")

    def __init__(self, inputs: Tensors, deliver: Deliver, arrived_s: float) -> None:
        self.inputs = inputs
        self.count = _count(inputs)
        self.shapes: _Shapes = tuple([array.shape[1:] for array in inputs.values()])
        """The shape of one sample of each input; only requests of equal shapes can share a run."""
        self.deliver = deliver
        self.arrived_s = arrived_s
        self.is_answered = False


class Batcher:
    """Runner of scoring requests; with `merging`, for sessions with a dynamic batch axis, several requests share a run."""

    def __init__(
        self,
        session: Session,
        *,
        merging: bool,
        queue_timeout_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare to run; a request that waits longer than `queue_timeout_s` is answered with 503, None: never."""
        self.run_count = 0
        self.times = RunTimes()
        self.running_since: float | None = None
        """Monotonic time at which the current run of the model started; None between runs."""
        self._current: Sequence[_Waiting] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock
        self._session = session
        self._merging = merging
        self._queue_timeout_s = queue_timeout_s
        self._queue_timer: asyncio.TimerHandle | None = None
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._brief: deque[bool] = deque(maxlen=LAST_RUNS)
        self._shapes: _Shapes | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    def submit(self, inputs: Tensors, deliver: Deliver) -> None:
        """Run `inputs`, which were checked against the model; `deliver` is called with the result in a later iteration."""
        self._waiting.append(_Waiting(inputs, deliver, self._clock()))
        if not self._busy:
            self._busy = True
            loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self._start_next, loop)
        elif self._queue_timer is None:
            self._look_for_late_ones()

    async def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs for `inputs`; raise the error of the run."""
        result: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()

        def deliver(outcome: Tensors | Exception) -> None:
            if result.done():  # the caller was cancelled
                return
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)

        self.submit(inputs, deliver)
        return await result

    def expire(self, error: Exception, others: Exception, expired: threading.Event) -> None:
        """Let the requests of the current run fail with `error` and the waiting ones with `others`; callable from any thread.

        `expired` is set when that is done; it never is while a run blocks the event loop.
        """
        assert self._loop is not None, "a run was started"
        self._loop.call_soon_threadsafe(self._expire, error, others, expired)

    def close(self) -> None:
        """End the worker thread after its current run."""
        self._worker.shutdown()

    def _start_next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._refuse_late()
        batch = self._take()
        if not batch:
            self._busy = False
            return
        self.run_count += 1
        self._current = batch
        if self._is_brief(batch):
            _deliver(batch, self._score(batch))
            if self._waiting:
                loop.call_soon(self._start_next, loop)  # after the other events of this iteration
            else:
                self._busy = False
            return
        running = loop.run_in_executor(self._worker, self._score, batch)
        running.add_done_callback(lambda finished: self._finish(loop, batch, finished))

    def _expire(self, error: Exception, others: Exception, expired: threading.Event) -> None:
        _deliver(self._current, [error] * len(self._current))
        _deliver(self._waiting, [others] * len(self._waiting))
        expired.set()

    def _look_for_late_ones(self) -> None:
        """Refuse the requests that have waited too long; look again when the next one will have, even if it is gone by then."""
        self._queue_timer = None
        self._refuse_late()
        if self._waiting and self._queue_timeout_s is not None and self._loop is not None:
            rest_s = self._queue_timeout_s - (self._clock() - self._waiting[0].arrived_s)
            self._queue_timer = self._loop.call_later(max(0.0, rest_s), self._look_for_late_ones)

    def _refuse_late(self) -> None:
        limit_s = self._queue_timeout_s
        while limit_s is not None and self._waiting and self._clock() - self._waiting[0].arrived_s >= limit_s:
            text = f"the model is busy: this request waited {limit_s:g} s for it; try again in a second"
            _deliver([self._waiting.popleft()], [HttpError(503, text, (("retry-after", "1"),))])

    def _is_brief(self, batch: Sequence[_Waiting]) -> bool:
        if batch[0].shapes != self._shapes:  # a different input size, with unknown times
            self._shapes = batch[0].shapes
            self._brief.clear()
        return self._brief.count(True) >= MIN_BRIEF_RUNS and sum([waiting.count for waiting in batch]) <= MAX_SAMPLES_PER_RUN

    def _take(self) -> list[_Waiting]:
        """Remove and return the oldest request and the following ones that can share its run."""
        batch: list[_Waiting] = []
        samples = 0
        while self._waiting:
            following = self._waiting[0]
            fits = self._merging and following.shapes == batch[0].shapes if batch else True
            if not fits or (batch and samples + following.count > MAX_SAMPLES_PER_RUN):
                break
            batch.append(self._waiting.popleft())
            samples += following.count
        return batch

    def _finish(
        self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting], finished: asyncio.Future[list[Tensors | Exception]]
    ) -> None:
        _deliver(batch, finished.result())
        self._start_next(loop)

    def _score(self, batch: Sequence[_Waiting]) -> list[Tensors | Exception]:
        """Score all requests in one run, or each alone if that fails, so that one request cannot fail another."""
        requests = [waiting.inputs for waiting in batch]
        started_s = self._clock()
        results = self._attempt(requests)
        if isinstance(results, Exception):
            results = [results] if len(requests) == 1 else [self._alone(request) for request in requests]
        ended_s = self._clock()
        self._brief.append(ended_s - started_s < BRIEF_S)
        self._count_times(batch, results, started_s, ended_s)
        return results

    def _count_times(
        self, batch: Sequence[_Waiting], results: Sequence[Tensors | Exception], started_s: float, ended_s: float
    ) -> None:
        self.times.add_run(sum([waiting.count for waiting in batch]), ended_s - started_s)
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                self.times.failed.add(ended_s - waiting.arrived_s)
            else:
                self.times.waited.add(started_s - waiting.arrived_s)
                self.times.ran.add(ended_s - started_s)

    def _alone(self, request: Tensors) -> Tensors | Exception:
        results = self._attempt([request])
        return results if isinstance(results, Exception) else results[0]

    def _attempt(self, requests: Sequence[Tensors]) -> list[Tensors | Exception] | Exception:
        self.running_since = time.monotonic()
        try:
            if len(requests) == 1:
                return [self._session.run(requests[0])]
            return _split(self._session.run(_joined(requests)), [_count(request) for request in requests])
        except Exception as error:  # noqa: BLE001  raised where the outputs are awaited
            return error
        finally:
            self.running_since = None


def _deliver(batch: Sequence[_Waiting], results: Sequence[Tensors | Exception]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.is_answered:  # by `expire`
            continue
        waiting.is_answered = True
        try:
            waiting.deliver(result)
        except Exception:  # noqa: BLE001 - a defect, which must not cost the other requests their outputs
            _log.exception("a result was not delivered")


def _count(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))


def _joined(requests: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def _split(outputs: Tensors, counts: Sequence[int]) -> list[Tensors | Exception]:
    """Split the outputs of one run by request; raise `OperationError` if the first axis of one does not count the samples."""
    total = sum(counts)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != total:
            raise OperationError(f"output {name} has no axis that counts the samples")
    pieces: list[Tensors | Exception] = []
    start = 0
    for count in counts:
        end = start + count
        pieces.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return pieces
