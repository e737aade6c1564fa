"""One run at a time, and as few as possible: what has arrived by the time that the model is free goes in one run.

There is no waiting for more. A request that comes alone runs alone at the end of the same turn of the event loop; requests that
arrive while a run is on its way share the next one. On small models that saves a third to half of the processor time; a window
of waiting costs its length for every lone request.

Runs happen in a worker thread, so that the event loop goes on answering. Only while a model is so quick that handing it over
costs more than running it (nearly all of its last runs took under half a millisecond), it runs in the loop itself: that saves
a third to two thirds of the processor time of a small model's request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from accel.backends.backend import Session
from edgewright.contracts.samples import Tensors
from edgewright.errors import OperationError

MAX_SAMPLES_PER_RUN = 64
BRIEF_S = 0.0005
LAST_RUNS = 16
MIN_BRIEF_RUNS = 12
"""How many of the last runs must have been brief; the others may have met a busy processor."""

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request whose inputs were checked and whose answer is awaited."""

    inputs: Tensors
    count: int
    shapes: _Shapes
    """The shape of one sample of each input: only equal ones can share a run."""
    answer: asyncio.Future[Tensors]


class Batcher:
    """Score requests, several in one run where they can share it; `merging` is for sessions whose batch axis is free."""

    def __init__(self, session: Session, *, merging: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self.run_count = 0
        self._clock = clock
        self._session = session
        self._merging = merging
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._brief: deque[bool] = deque(maxlen=LAST_RUNS)
        self._shapes: _Shapes | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    async def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs for `inputs`, which fit the model."""
        loop = asyncio.get_running_loop()
        shapes = tuple((name, array.shape[1:]) for name, array in sorted(inputs.items()))
        waiting = _Waiting(inputs, len(next(iter(inputs.values()))), shapes, loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start_next, loop)
        return await waiting.answer

    def close(self) -> None:
        """End the worker thread once the run that it is at has ended."""
        self._worker.shutdown()

    def _start_next(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._take()
        if not batch:
            self._busy = False
            return
        self.run_count += 1
        requests = [waiting.inputs for waiting in batch]
        if self._is_brief(batch):
            _deliver(batch, self._score(requests))
            loop.call_soon(self._start_next, loop)  # whatever else has happened comes first
            return
        running = loop.run_in_executor(self._worker, self._score, requests)
        running.add_done_callback(lambda finished: self._finish(loop, batch, finished))

    def _is_brief(self, batch: Sequence[_Waiting]) -> bool:
        if batch[0].shapes != self._shapes:  # a larger picture may take longer: nothing is known of it yet
            self._shapes = batch[0].shapes
            self._brief.clear()
        return sum(self._brief) >= MIN_BRIEF_RUNS and sum(waiting.count for waiting in batch) <= MAX_SAMPLES_PER_RUN

    def _take(self) -> list[_Waiting]:
        """Take the oldest request and those behind it that can share its run."""
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

    def _score(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """Score all in one run, or each alone where that fails, so that nobody pays for another."""
        started = self._clock()
        together = self._attempt(requests)
        if isinstance(together, Exception):
            together = [together] if len(requests) == 1 else [self._alone(request) for request in requests]
        self._brief.append(self._clock() - started < BRIEF_S)
        return together

    def _alone(self, request: Tensors) -> Tensors | Exception:
        found = self._attempt([request])
        return found if isinstance(found, Exception) else found[0]

    def _attempt(self, requests: Sequence[Tensors]) -> list[Tensors | Exception] | Exception:
        try:
            if len(requests) == 1:
                return [self._session.run(requests[0])]
            return _split(self._session.run(_joined(requests)), [_count(request) for request in requests])
        except Exception as failed:  # noqa: BLE001  it is raised where the answer is awaited
            return failed


def _deliver(batch: Sequence[_Waiting], results: Sequence[Tensors | Exception]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.answer.done():  # the client has gone
            continue
        if isinstance(result, Exception):
            waiting.answer.set_exception(result)
        else:
            waiting.answer.set_result(result)


def _count(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))


def _joined(requests: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def _split(outputs: Tensors, counts: Sequence[int]) -> list[Tensors | Exception]:
    """Cut the outputs of one run into those of its requests; raise `OperationError` when one does not count the samples."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != sum(counts):
            raise OperationError(f"output {name} has no axis that counts the samples")
    ends = np.cumsum(counts)[:-1]
    pieces = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: pieces[name][place] for name in outputs} for place in range(len(counts))]
