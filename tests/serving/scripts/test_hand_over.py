"""Calls are handed over ahead of a brief script, and each runs exactly once, in whichever worker, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import OperationError
from edgewright.serving.http.messages import HttpError
from edgewright.serving.scripts.connection import Answered
from edgewright.serving.scripts.messages import Call
from edgewright.serving.scripts.options import ScriptOptions
from edgewright.serving.scripts.pool import ScriptPool, ScriptTimeoutError

SCRIPT = """
import os, time
folder = os.environ["AZUREML_MODEL_DIR"]
def init(): pass
def run(data):
    with open(os.path.join(folder, "ran"), "a") as ran:
        ran.write(data + "\\n")
    if data == "die":
        os._exit(9)
    while data == "wait" and not os.path.exists(os.path.join(folder, "gate")):
        time.sleep(0.005)
    return data
"""
BRIEF = [f"brief-{number}" for number in range(8)]


def with_pool(folder: Path, scenario: Callable[[ScriptPool], Awaitable[None]], **options: Any) -> None:
    """Run a scenario with a pool that has measured brief runs, so that it hands over ahead."""
    path = folder / "score.py"
    path.write_text(SCRIPT)

    async def run() -> None:
        pool = ScriptPool(ScriptOptions(path=path, model_directory=folder, **options))
        await pool.start()
        try:
            for _ in range(60):
                await asyncio.gather(*(called(pool, "warm") for _ in range(2 * options.get("worker_count", 1))))
            await scenario(pool)
        finally:
            await pool.close()

    asyncio.run(run())


async def called(pool: ScriptPool, body: str) -> Answered:
    return await pool.call(Call(request_id="test"), body.encode())


def runs_of(folder: Path) -> list[str]:
    return sorted(line for line in (folder / "ran").read_text().split() if line != "warm")


def test_a_crash_costs_no_call_that_was_handed_over_ahead(tmp_path: Path) -> None:
    async def scenario(pool: ScriptPool) -> None:
        failed, *answers = await asyncio.gather(*(called(pool, each) for each in ["die", *BRIEF]), return_exceptions=True)
        assert isinstance(failed, OperationError)
        assert str(failed) == "the worker of the script ended with exit code 9 during this request"
        assert [each.body.decode().strip('"') for each in answers if isinstance(each, Answered)] == BRIEF

    with_pool(tmp_path, scenario, queue_timeout_s=60.0)
    assert runs_of(tmp_path) == sorted(["die", *BRIEF])


def test_calls_after_a_slow_one_are_taken_back_and_run_in_another_worker(tmp_path: Path) -> None:
    async def scenario(pool: ScriptPool) -> None:
        slow = asyncio.create_task(called(pool, "wait"))
        answers = await asyncio.gather(*(called(pool, each) for each in BRIEF))
        assert not slow.done()
        assert [each.body.decode().strip('"') for each in answers] == BRIEF
        (tmp_path / "gate").touch()
        assert (await slow).body == b'"wait"'
        assert (await called(pool, "last")).body == b'"last"'

    with_pool(tmp_path, scenario, worker_count=2, queue_timeout_s=60.0)
    assert runs_of(tmp_path) == sorted(["wait", *BRIEF, "last"])


def test_a_call_that_was_refused_while_it_waited_does_not_run_later(tmp_path: Path) -> None:
    async def scenario(pool: ScriptPool) -> None:
        slow = asyncio.create_task(called(pool, "wait"))
        refused = await asyncio.gather(*(called(pool, each) for each in BRIEF), return_exceptions=True)
        assert [getattr(each, "http_status", None) for each in refused] == [503] * len(BRIEF)
        assert isinstance(refused[0], HttpError)
        (tmp_path / "gate").touch()
        assert (await slow).waited_s < 0.3
        assert (await called(pool, "last")).body == b'"last"'

    with_pool(tmp_path, scenario, queue_timeout_s=0.5)
    assert runs_of(tmp_path) == sorted(["wait", "last"])


def test_a_timeout_costs_no_call_that_was_handed_over_ahead(tmp_path: Path) -> None:
    async def scenario(pool: ScriptPool) -> None:
        failed, *answers = await asyncio.gather(*(called(pool, each) for each in ["wait", *BRIEF]), return_exceptions=True)
        assert isinstance(failed, ScriptTimeoutError)
        assert [type(each) for each in answers] == [Answered] * len(BRIEF)

    with_pool(tmp_path, scenario, queue_timeout_s=60.0, scoring_timeout_s=1.0)
    assert runs_of(tmp_path) == sorted(["wait", *BRIEF])


@pytest.mark.parametrize("size_bytes", [1 << 16, 5 << 20])
def test_long_bodies_arrive_whole_beside_short_ones(size_bytes: int, tmp_path: Path) -> None:
    bodies = ["x" * size_bytes, "short", "y" * size_bytes]

    async def scenario(pool: ScriptPool) -> None:
        answers = await asyncio.gather(*(called(pool, each) for each in bodies))
        assert [each.body.decode().strip('"') for each in answers] == bodies

    with_pool(tmp_path, scenario, queue_timeout_s=60.0)
