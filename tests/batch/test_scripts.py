"""The contract of a script: init, run, retries, time limits, results, and failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edgewright.batch.driver import run_job
from edgewright.batch.job import BatchJob, InputKind
from edgewright.batch.ledger import JobState
from edgewright.errors import OperationError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number:02d}.dat").write_text(str(number))
    return folder


def job_of(script: str, files: Path, tmp_path: Path, **fields: Any) -> BatchJob:
    return BatchJob(**{"script": script, "input": (str(files),), "output": str(tmp_path / "out"), "workers": 1, **fields})


def results(tmp_path: Path) -> list[Any]:
    return list(pq.read_table(tmp_path / "out" / "predictions.parquet").column("result").to_pylist())


def test_run_gets_the_paths_of_a_mini_batch(script: Callable[..., str], files: Path, tmp_path: Path) -> None:
    report = run_job(
        job_of(script("return [f'{len(mini_batch)} {os.path.basename(path)}' for path in mini_batch]"), files, tmp_path)
    )
    assert results(tmp_path) == [f"{10 if number < 20 else 5} {number:02d}.dat" for number in range(25)]
    assert (report.mini_batches, report.succeeded) == (3, 25)


def test_failures_are_counted_grouped_and_listed(script: Callable[..., str], files: Path, tmp_path: Path) -> None:
    body = "if mini_batch[3].endswith('13.dat'): raise ValueError(f'cannot read {mini_batch[0]}')\nreturn mini_batch"
    report = run_job(job_of(script(body), files, tmp_path, run_max_try=2))
    assert (report.state, report.succeeded, report.failed, report.failed_mini_batches) == (JobState.COMPLETED, 15, 10, 1)
    assert [(group.count, group.error.startswith("ValueError: cannot read")) for group in report.errors] == [(10, True)]
    assert '"count":10' in (tmp_path / "out" / "_failures.jsonl").read_text()


def test_fewer_results_than_inputs_are_failures(script: Callable[..., str], files: Path, tmp_path: Path) -> None:
    report = run_job(job_of(script("return mini_batch[:3]"), files, tmp_path))
    assert (report.succeeded, report.failed) == (9, 16)
    assert report.errors[0].error == "run() must return one result per input, but it returned 3 for 10"


def test_too_many_failures_end_the_job_and_a_repaired_script_can_continue_it(
    script: Callable[..., str], files: Path, tmp_path: Path
) -> None:
    failing = script("return mini_batch[:9]")
    report = run_job(job_of(failing, files, tmp_path, error_threshold=1))
    assert report.state is JobState.FAILED
    assert report.reason == "error_threshold is 1, but 2 rows or files failed"
    assert run_job(job_of(failing, files, tmp_path, error_threshold=5)).state is JobState.COMPLETED
    script("return mini_batch")
    again = run_job(job_of(failing, files, tmp_path, error_threshold=1), retry_failed=True)
    assert (again.state, again.failed, len(results(tmp_path))) == (JobState.COMPLETED, 0, 25)


def test_a_mini_batch_that_hangs_or_ends_its_process_is_tried_again_and_then_fails_alone(
    script: Callable[..., str], files: Path, tmp_path: Path
) -> None:
    body = (
        "first = os.path.basename(mini_batch[0])\n"
        "with open(os.environ['TRIES'], 'a') as log: log.write(first + ' ')\n"
        "if first == '00.dat': time.sleep(60)\n"
        "if first == '10.dat': os._exit(7)\n"
        "return mini_batch"
    )
    path = script(body, f"import time\nos.environ['TRIES'] = {str(tmp_path / 'tries')!r}")
    report = run_job(job_of(path, files, tmp_path, run_max_try=2, run_invocation_timeout=0.5))
    assert report.succeeded == 5
    assert sorted(group.error for group in report.errors) == [
        "run() must end within 0.5 s, but it did not",
        "the worker process ended with exit code 7",
    ]
    assert sorted((tmp_path / "tries").read_text().split()) == ["00.dat"] * 2 + ["10.dat"] * 2 + ["20.dat"]


def test_an_init_that_fails_ends_the_job(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def init():\n    raise KeyError('weights')\n\ndef run(mini_batch):\n    return mini_batch\n")
    with pytest.raises(OperationError, match=r"init\(\) of bad.py must succeed, but it raised KeyError in line 2: 'weights'"):
        run_job(job_of(str(path), files, tmp_path))


def test_a_script_gets_its_arguments_and_a_table_as_a_data_frame(
    script: Callable[..., str], tables: Path, tmp_path: Path
) -> None:
    body = "return mini_batch[['id']].assign(sum=mini_batch.f0 + mini_batch.f1, given=sys.argv[1])"
    run_job(job_of(script(body, "import sys"), tables, tmp_path, arguments=("--x",), kind=InputKind.TABLE))
    found = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert found.column("id").to_pylist() == list(range(250))
    assert set(found.column("given").to_pylist()) == {"--x"}
