"""Inputs that cannot be read, outputs that cannot be written, and jobs that cannot be understood: one clear line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from edgewright.batch.driver import run_job
from edgewright.batch.job import BatchJob, read_job
from edgewright.batch.ledger import JobState
from edgewright.cli import main
from edgewright.errors import BadInputError, ConflictError, NotWritableError


def job_of(model: Path, tables: Path, tmp_path: Path, **fields: Any) -> BatchJob:
    given = {"model": str(model), "input": (str(tables),), "output": str(tmp_path / "out"), "keep": ("id", "store")}
    return BatchJob(**{**given, **fields})


def test_an_unreadable_table_is_counted_and_listed(model: Path, tables: Path, tmp_path: Path) -> None:
    (tables / "1.parquet").write_bytes(b"PAR1 is not all of it")
    report = run_job(job_of(model, tables, tmp_path))
    assert (report.state, report.succeeded, report.failed) == (JobState.COMPLETED, 150, 1)
    assert report.errors[0].items == (str(tables / "1.parquet"),)
    assert report.errors[0].error.startswith("cannot be read: ")
    strict = run_job(job_of(model, tables, tmp_path, error_threshold=0, output=str(tmp_path / "strict")))
    assert strict.reason == "error_threshold is 0, but 1 rows or files failed"


def test_a_table_damaged_inside_fails_for_its_unread_rows(model: Path, tables: Path, tmp_path: Path) -> None:
    raw = bytearray((tables / "0.parquet").read_bytes())
    middle = pq.ParquetFile(tables / "0.parquet").metadata.row_group(1).column(0).data_page_offset
    raw[middle : middle + 200] = b"\xff" * 200
    (tables / "0.parquet").write_bytes(raw)
    report = run_job(job_of(model, tables, tmp_path))
    assert (report.items, report.succeeded, report.failed) == (250, 190, 60)


def test_an_output_with_other_files_is_refused(model: Path, tables: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(ConflictError, match="must be empty or the output of this job, but it has other files"):
        run_job(job_of(model, tables, tmp_path), overwrite=True)
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_one_line(model: Path, tables: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((NotWritableError, BadInputError), match="must be a folder|cannot be written"):
        run_job(job_of(model, tables, tmp_path, output=str(tmp_path / "file")))
    with pytest.raises(NotWritableError, match=r"cannot be written \(Not a directory\)"):
        run_job(job_of(model, tables, tmp_path, output=str(tmp_path / "file" / "out")))


def test_other_options_or_inputs_need_another_output(model: Path, tables: Path, tmp_path: Path) -> None:
    run_job(job_of(model, tables, tmp_path))
    with pytest.raises(ConflictError, match="with the options that its job began with"):
        run_job(job_of(model, tables, tmp_path, mini_batch=9))
    (tables / "2.parquet").unlink()
    with pytest.raises(ConflictError, match="with the input files that its job began with"):
        run_job(job_of(model, tables, tmp_path))
    assert run_job(job_of(model, tables, tmp_path), overwrite=True).succeeded == 200


def test_a_complete_job_is_not_run_again(model: Path, tables: Path, tmp_path: Path) -> None:
    first = run_job(job_of(model, tables, tmp_path))
    assert run_job(job_of(model, tables, tmp_path)) == first


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"mini_batch": "many"}, "mini_batch must be a number of rows or files, or a size such as 1MB", id="size"),
        pytest.param({"script": "score.py"}, "must have either a model or a script", id="model and script"),
        pytest.param({"error_threshold": -2}, "error_threshold must be 0 or more, or -1", id="threshold"),
        pytest.param({"partition_keys": ("store",), "mini_batch": 9}, "mini_batch must be absent with partition_keys", id="keys"),
        pytest.param({"append_row_file_name": "a/b.csv"}, "append_row_file_name must be a file name", id="file name"),
        pytest.param({"partition_keys": ("shop",)}, "must have the column shop of partition_keys", id="unknown key"),
        pytest.param({"input": ("nothing",)}, "nothing must be a file or folder to score, but it does not exist", id="no input"),
    ],
)
def test_a_job_that_cannot_run_is_refused(
    fields: dict[str, Any], message: str, model: Path, tables: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=message):
        run_job(job_of(model, tables, tmp_path, **fields))


def test_a_missing_column_fails_every_row_with_its_name(model: Path, tables: Path, tmp_path: Path) -> None:
    report = run_job(job_of(model, tables, tmp_path, columns=("f0", "f9")))
    assert (report.state, report.reason) == (JobState.FAILED, "at least one row or file must succeed, but all failed")
    assert report.errors[0].error == "the input must have the column f9, but it has id, store, f0, f1, f2, f3"


def test_paths_in_a_job_file_start_at_its_folder_and_options_replace_its_fields(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: models/m.onnx\ninput: data\noutput: out\nmini_batch: 1MB\nkeep: [id]\n")
    job = read_job(tmp_path / "job.yaml", {"mini_batch": "5"})
    assert (job.model, job.input, job.mini_batch) == (str(tmp_path / "models/m.onnx"), (str(tmp_path / "data"),), "5")


def test_an_unknown_field_of_a_job_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("modle: m.onnx\n")
    result = CliRunner().invoke(main, ["batch", "run", str(tmp_path / "job.yaml")])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"edgewright: {tmp_path}/job.yaml: unknown field modle; a job has address, ")


def test_the_command_prints_counts_and_errors(script: Callable[..., str], tables: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    given = ["--script", script("return [1] * (len(mini_batch) - 1)"), "--input", str(tables), "--output", out, "--workers", "1"]
    result = CliRunner().invoke(main, ["batch", "run", *given, "--error-threshold", "2"])
    assert result.exit_code == 1
    assert "state   failed: error_threshold is 2, but 3 rows or files failed" in result.stdout
    assert "     3  run() must return one result per input, but it returned 39 for 40" in result.stdout
    status = json.loads(CliRunner().invoke(main, ["batch", "status", out, "--json"]).stdout)
    assert (status["state"], status["failed"], status["tasks_done"]) == ("failed", 3, 1)
