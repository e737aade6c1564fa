"""A script that cannot start ends in one line, within its time limit, and leaves no process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from edgewright.errors import BadInputError, EdgewrightError, OperationError
from edgewright.serving.scripts.options import ScriptOptions, worker_environment
from edgewright.serving.scripts.pool import ScriptPool

RUN = "def run(data):\n    return data\n"
DECORATOR = """
from edgewright.serving.scripts.parameter_types import StandardPythonParameterType
from edgewright.serving.scripts.schema import input_schema
def init(): pass
@input_schema("missing", StandardPythonParameterType(1))
def run(data): pass
"""
BATCHED = """
from edgewright.serving.scripts.schema import batched
def init(): pass
@batched(max_batch_size={size})
{kind} run(inputs): pass
"""


def start_error(tmp_path: Path, text: str, **options: float) -> EdgewrightError:
    path = tmp_path / "score.py"
    path.write_text(text)

    async def start() -> None:
        pool = ScriptPool(ScriptOptions(path=path, worker_count=2, **options))  # type: ignore[arg-type]
        await pool.start()
        await pool.close()

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(EdgewrightError) as error:
        asyncio.run(start())
    assert set(psutil.Process().children(recursive=True)) == before
    return error.value


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("def run(data:\n", BadInputError, "must be importable, but it raised SyntaxError in line 1: "),
        ("import no_such_package\n", BadInputError, "it raised ModuleNotFoundError in line 1: No module named 'no_such_package'"),
        ("def init(): pass\n", BadInputError, "must define run(), but it does not"),
        (RUN, BadInputError, "must define init(), but it does not"),
        (f"init = 1\n{RUN}", BadInputError, "must define init(), but it does not"),
        ("def init(): pass\ndef run(): return 1\n", BadInputError, "must have a parameter for the data of a request, but it has"),
        ("def init(): pass\ndef run(a, b): return 1\n", BadInputError, "no request has b: declare it with input_schema"),
        ("import sys\nsys.exit(4)\n", BadInputError, "it raised SystemExit in line 2: 4"),
        (DECORATOR, BadInputError, "input_schema names missing, but run has no such parameter"),
        (BATCHED.format(size=0, kind="def"), BadInputError, "max_batch_size must be an integer of at least 1, not 0"),
        (BATCHED.format(size=8, kind="async def"), BadInputError, "run must be a plain function to be batched, not async def"),
        (
            f"def init():\n    1 / 0\n{RUN}",
            OperationError,
            "init() of score.py must succeed, but it raised ZeroDivisionError in line 2",
        ),
        (f"def init():\n    open('/no/model.pkl')\n{RUN}", OperationError, "it raised FileNotFoundError in line 2"),
        (
            f"import os\ndef init():\n    os.kill(os.getpid(), 11)\n{RUN}",
            OperationError,
            "init() of score.py must end, but its process was ended by SIGSEGV",
        ),
    ],
)
def test_a_script_that_cannot_start_says_why(text: str, kind: type[EdgewrightError], line: str, tmp_path: Path) -> None:
    error = start_error(tmp_path, text)
    assert type(error) is kind
    assert line in str(error)
    assert "\n" not in str(error)


def test_an_init_that_hangs_is_ended(tmp_path: Path) -> None:
    error = start_error(tmp_path, f"import time\ndef init(): time.sleep(100)\n{RUN}", init_timeout_s=1.0)
    assert str(error) == "init() of score.py must end within 1 s, but it did not"


def test_a_worker_that_does_not_start_again_leaves_the_service_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "score.py"
    path.write_text("import os\ndef init(): open(os.environ['AZUREML_MODEL_DIR'] + '/model')\ndef run(data): os._exit(1)\n")
    (tmp_path / "model").touch()

    async def scenario() -> None:
        from edgewright.serving.scripts.messages import Call

        pool = ScriptPool(ScriptOptions(path=path, model_directory=tmp_path))
        await pool.start()
        assert pool.ready_count == 1
        (tmp_path / "model").unlink()
        with pytest.raises(OperationError, match="ended with exit code 1 during this request"):
            await pool.call(Call(request_id="a"), b"{}")
        assert pool.ready_count == 0
        (tmp_path / "model").touch()
        async with asyncio.timeout(30):
            while pool.ready_count == 0:
                await asyncio.sleep(0.05)
        await pool.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("workers", "given", "expected"), [(1, None, None), (1000, None, "1"), (1000, "7", "7")])
def test_workers_share_the_processors(
    workers: int, given: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert worker_environment(workers).get("OMP_NUM_THREADS") == expected
