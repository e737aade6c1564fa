"""A batched `run` gets the requests that wait together; one that fails does not fail the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.serving.scripts.connection import Answered
from edgewright.serving.scripts.messages import Call
from edgewright.serving.scripts.options import ScriptOptions
from edgewright.serving.scripts.pool import ScriptPool

PLAIN = """
import os, time
from edgewright.serving.scripts.schema import batched
folder = os.environ["AZUREML_MODEL_DIR"]
def init(): pass
@batched(max_batch_size=4)
def run(inputs):
    print("running", *inputs)
    while inputs == ["wait"] and not os.path.exists(os.path.join(folder, "gate")):
        time.sleep(0.005)
    if "die" in inputs:
        os._exit(9)
    if "bad" in inputs:
        raise ValueError("secret")
    if "few" in inputs:
        return [1]
    return [f"{each} of {len(inputs)}" if each != "object" else object() for each in inputs]
"""
DECLARED = """
import numpy as np
from edgewright.serving.scripts.parameter_types import NumpyParameterType, StandardPythonParameterType
from edgewright.serving.scripts.schema import batched, input_schema
def init(): pass
@batched()
@input_schema("data", NumpyParameterType(np.zeros((1, 2))))
@input_schema("scale", StandardPythonParameterType(1.0), optional=True)
def run(data, scale=None):
    scales = [each or 1.0 for each in scale or [None] * len(data)]
    sizes = [len(each) for each in data]
    sums = np.concatenate(data).sum(axis=1)
    return [part * each for part, each in zip(np.split(sums, np.cumsum(sizes)[:-1]), scales)]
"""


def with_pool(folder: Path, text: str, scenario: Callable[[ScriptPool], Awaitable[None]], **options: Any) -> None:
    path = folder / "score.py"
    path.write_text(text)

    async def run() -> None:
        pool = ScriptPool(ScriptOptions(path=path, model_directory=folder, queue_timeout_s=60.0, **options))
        await pool.start()
        try:
            await scenario(pool)
        finally:
            await pool.close()

    asyncio.run(run())


async def together(pool: ScriptPool, bodies: list[str]) -> list[Answered | BaseException]:
    calls = [pool.call(Call(request_id=f"id-{number}"), body.encode()) for number, body in enumerate(bodies)]
    return await asyncio.gather(*calls, return_exceptions=True)


def values(answers: list[Answered | BaseException]) -> list[Any]:
    return [json.loads(each.body) if isinstance(each, Answered) else str(each) for each in answers]


def statuses(answers: list[Answered | BaseException]) -> list[int]:
    return [each.answer.status if isinstance(each, Answered) else 500 for each in answers]


def test_requests_that_arrive_or_wait_together_run_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(pool: ScriptPool) -> None:
        assert values(await together(pool, ["a", "b"])) == ["a of 2", "b of 2"]
        holding = asyncio.create_task(together(pool, ["wait"]))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(together(pool, ["a", "b", "c", "d", "e"]))
        await asyncio.sleep(0)
        (tmp_path / "gate").touch()
        assert values(await holding) == ["wait of 1"]
        assert values(await waiting) == ["a of 4", "b of 4", "c of 4", "d of 4", "e of 1"]

    with_pool(tmp_path, PLAIN, scenario)
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.endswith("Z id-0,id-1,id-2,id-3 running a b c d")]


@pytest.mark.parametrize("bad", ["bad", "object"])
def test_a_request_that_fails_in_a_batch_fails_alone(bad: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(pool: ScriptPool) -> None:
        answers = await together(pool, ["a", bad, "c"])
        assert statuses(answers) == [200, 500, 200]
        text = "the script failed on this request: its log has the reason under request id-1"
        assert values(answers) == ["a of 1", {"error": text}, "c of 1"]

    with_pool(tmp_path, PLAIN, scenario)
    assert [line for line in capfd.readouterr().err.splitlines() if "Z id-1 " in line and "Error" in line]


def test_a_request_that_ends_the_worker_of_its_batch_fails_alone(tmp_path: Path) -> None:
    async def scenario(pool: ScriptPool) -> None:
        assert values(await together(pool, ["a", "die", "c"])) == [
            "a of 1",
            "the worker of the script ended with exit code 9 during this request",
            "c of 1",
        ]

    with_pool(tmp_path, PLAIN, scenario)


def test_another_number_of_results_fails_the_whole_batch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(pool: ScriptPool) -> None:
        assert statuses(await together(pool, ["a", "few"])) == [500, 500]

    with_pool(tmp_path, PLAIN, scenario)
    assert "run() must return a list with one result per input, 2, but it returned 1" in capfd.readouterr().err


def test_each_declared_argument_is_a_list_and_a_request_that_does_not_fit_is_no_part_of_it(tmp_path: Path) -> None:
    async def scenario(pool: ScriptPool) -> None:
        bodies = ['{"data": [[1, 2]]}', '{"data": [[1]]}', '{"data": [[3, 4], [5, 6]], "scale": 2}']
        answers = await together(pool, bodies)
        assert statuses(answers) == [200, 400, 200]
        error = {"error": "data must be float64[n, 2], but the shape [1, 1] was received"}
        assert values(answers) == [[3.0], error, [14.0, 22.0]]

    with_pool(tmp_path, DECLARED, scenario)
