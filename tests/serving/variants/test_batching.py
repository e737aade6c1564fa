"""Requests that share a run, each with its own outputs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from edgewright.contracts.samples import Tensors
from edgewright.errors import OperationError
from edgewright.serving.http.messages import HttpError
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.variants.batching import BRIEF_S, LAST_RUNS, MAX_SAMPLES_PER_RUN, MIN_BRIEF_RUNS, Batcher
from tests.support.tiny_variants import make_config


class Doubling:
    """A session that doubles its input, records its calls, and fails if a sample is negative."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.summing = False
        self.threads: list[str] = []

    def run(self, inputs: Tensors) -> Tensors:
        assert self.gate.wait(20)
        self.threads.append(threading.current_thread().name)
        self.sizes.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise OperationError("negative")
        if self.summing:
            return {"y": inputs["x"].sum(axis=0, keepdims=True)}
        return {"y": inputs["x"] * 2}

    def describe(self) -> dict[str, str]:
        return {"backend": "doubling"}

    def close(self) -> None:
        pass


def run(work: Callable[[Batcher], Awaitable[None]], session: Doubling, *, merging: bool = True) -> None:
    async def main() -> None:
        batcher = Batcher(session, merging=merging)
        try:
            await asyncio.wait_for(work(batcher), timeout=20)
        finally:
            batcher.close()

    asyncio.run(main())


TOO_LATE = r"^the model is busy: this request waited 0\.2 s for it; try again in a second$"


def rows(*values: float, width: int = 2) -> Tensors:
    return {"x": np.array([[value] * width for value in values], np.float32)}


def firsts(outputs: Tensors) -> list[float]:
    return [float(value) for value in outputs["y"][:, 0]]


def test_requests_of_one_iteration_share_a_run_and_get_their_own_answers() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        results = await asyncio.gather(batcher.run(rows(1)), batcher.run(rows(2, 3)), batcher.run(rows(4)))
        assert [firsts(outputs) for outputs in results] == [[2], [4, 6], [8]]

    run(work, session)
    assert session.sizes == [4]


def test_a_single_request_runs_at_once() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        assert firsts(await batcher.run(rows(1))) == [2]
        assert firsts(await batcher.run(rows(2))) == [4]

    run(work, session)
    assert session.sizes == [1, 1]


def test_requests_that_arrive_during_a_run_share_the_next_one() -> None:
    session = Doubling()
    session.gate.clear()

    async def work(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.run(rows(1)))
        while batcher.run_count == 0:
            await asyncio.sleep(0)
        later = [asyncio.create_task(batcher.run(rows(value))) for value in (2, 3, 4)]
        await asyncio.sleep(0)
        session.gate.set()
        await asyncio.gather(first, *later)

    run(work, session)
    assert session.sizes == [1, 3]


def test_a_run_takes_no_more_than_its_limit() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.run(rows(1)) for _ in range(MAX_SAMPLES_PER_RUN + 3)))

    run(work, session)
    assert session.sizes == [MAX_SAMPLES_PER_RUN, 3]


def test_a_request_beyond_the_limit_runs_whole() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(batcher.run(rows(*[1.0] * 200)), batcher.run(rows(2)))

    run(work, session)
    assert session.sizes == [200, 1]


def test_samples_of_another_shape_run_separately() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        results = await asyncio.gather(batcher.run(rows(1)), batcher.run(rows(2, width=5)))
        assert [outputs["y"].shape for outputs in results] == [(1, 2), (1, 5)]

    run(work, session)
    assert session.sizes == [1, 1]


def test_without_a_free_batch_axis_no_run_is_shared() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(batcher.run(rows(1)), batcher.run(rows(2)))

    run(work, session, merging=False)
    assert session.sizes == [1, 1]


def test_one_request_that_fails_does_not_fail_the_others() -> None:
    session = Doubling()

    async def work(batcher: Batcher) -> None:
        results = await asyncio.gather(batcher.run(rows(1)), batcher.run(rows(-1)), return_exceptions=True)
        assert isinstance(results[0], dict)
        assert firsts(results[0]) == [2]
        assert isinstance(results[1], OperationError)

    run(work, session)
    assert session.sizes == [2, 1, 1]


def test_outputs_that_do_not_count_samples_are_never_mixed() -> None:
    session = Doubling()
    session.summing = True

    async def work(batcher: Batcher) -> None:
        results = await asyncio.gather(batcher.run(rows(1)), batcher.run(rows(5)))
        assert [firsts(outputs) for outputs in results] == [[1], [5]]

    run(work, session)


def test_a_client_that_disconnects_does_not_stop_the_others() -> None:
    session = Doubling()
    session.gate.clear()

    async def work(batcher: Batcher) -> None:
        gone = asyncio.create_task(batcher.run(rows(1)))
        stays = asyncio.create_task(batcher.run(rows(2)))
        await asyncio.sleep(0)
        gone.cancel()
        session.gate.set()
        assert firsts(await stays) == [4]
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(work, session)


def test_a_request_that_waits_too_long_gets_503_and_the_others_their_outputs() -> None:
    session = Doubling()
    session.gate.clear()

    async def main() -> None:
        batcher = Batcher(session, merging=True, queue_timeout_s=0.2)
        running = asyncio.create_task(batcher.run(rows(1)))
        while batcher.run_count == 0:
            await asyncio.sleep(0)
        with pytest.raises(
            HttpError, match=r"^the model is busy: this request waited 0\.2 s for it; try again in a second$"
        ) as late:
            await asyncio.wait_for(batcher.run(rows(2)), timeout=20)
        assert (late.value.http_status, late.value.headers) == (503, (("retry-after", "1"),))
        session.gate.set()
        assert firsts(await running) == [2]
        assert firsts(await batcher.run(rows(3))) == [6]
        batcher.close()

    asyncio.run(main())
    assert session.sizes == [1, 1]


class Clocked(Doubling):
    """A session with its own clock, whose runs take the given times."""

    def __init__(self, *took_s: float) -> None:
        super().__init__()
        self.took_s, self.now_s = list(took_s), 0.0

    def run(self, inputs: Tensors) -> Tensors:
        self.now_s += self.took_s[len(self.sizes)]
        return super().run(inputs)

    def clock(self) -> float:
        return self.now_s


def in_worker(session: Clocked, *requests: Tensors) -> list[bool]:
    """Run one request after another; return for each whether the worker thread ran it."""

    async def main() -> None:
        batcher = Batcher(session, merging=True, clock=session.clock)
        for request in requests:
            await asyncio.wait_for(batcher.run(request), timeout=20)
        batcher.close()

    asyncio.run(main())
    return [name.startswith("scoring") for name in session.threads]


QUICK, SLOW = BRIEF_S / 2, BRIEF_S * 2


def test_a_model_runs_in_the_loop_while_nearly_all_of_its_last_runs_were_brief() -> None:
    slow_runs = LAST_RUNS - MIN_BRIEF_RUNS + 1
    took = [QUICK] * LAST_RUNS + [SLOW] * slow_runs + [QUICK]
    results = in_worker(Clocked(*took), *[rows(1)] * len(took))
    assert results == [True] * MIN_BRIEF_RUNS + [False] * (LAST_RUNS - MIN_BRIEF_RUNS + slow_runs) + [True]


def test_a_large_request_never_runs_in_the_loop() -> None:
    session = Clocked(*[QUICK] * (LAST_RUNS + 1))
    assert in_worker(session, *[rows(1)] * LAST_RUNS, rows(*[1.0] * (MAX_SAMPLES_PER_RUN + 1)))[-1]


def test_samples_of_a_new_shape_do_not_run_in_the_loop() -> None:
    session = Clocked(*[QUICK] * (LAST_RUNS + 1))
    assert in_worker(session, *[rows(1)] * LAST_RUNS, rows(1, width=500))[-1]


def test_a_failure_in_the_loop_reaches_the_request() -> None:
    session = Clocked(*[QUICK] * (LAST_RUNS + 1))
    with pytest.raises(OperationError, match="negative"):
        in_worker(session, *[rows(1)] * LAST_RUNS, rows(-1))
    assert not session.threads[-1].startswith("scoring")


@pytest.mark.parametrize(("independent", "sizes"), [(True, [2]), (False, [1, 1])])
def test_requests_are_merged_only_if_the_samples_are_independent(independent: bool, sizes: list[int]) -> None:
    session = Doubling()
    app = ScoringApp(session, make_config(independent_samples=independent), model="m", version=1)

    async def main() -> None:
        await asyncio.gather(app.batcher.run(rows(1)), app.batcher.run(rows(2)))

    asyncio.run(main())
    app.batcher.close()
    assert session.sizes == sizes
