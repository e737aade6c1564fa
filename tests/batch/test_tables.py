"""Score tables with a model: formats, columns, partition keys, and the forms of the output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from edgewright.batch.driver import run_job
from edgewright.batch.job import BatchJob, OutputAction
from edgewright.batch.ledger import JobState
from tests.support.batch_inputs import WEIGHTS, features, rows

KEEP = ("id", "store")


def test_each_row_is_scored_in_the_order_of_the_input(model: Path, tables: Path, tmp_path: Path) -> None:
    job = BatchJob(model=str(model), input=(str(tables),), output=str(tmp_path / "out"), keep=KEEP, mini_batch=33)
    report = run_job(job)
    found = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert found.column("id").to_pylist() == list(range(250))
    np.testing.assert_allclose(found.column("y").to_pylist(), features(np.arange(250)) @ WEIGHTS, rtol=1e-5)
    assert (report.state, report.items, report.succeeded, report.output_rows) == (JobState.COMPLETED, 250, 250, 250)


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl", "scores.arrow", "scores.txt"])
def test_the_suffix_of_the_output_file_is_its_format(name: str, model: Path, tables: Path, tmp_path: Path) -> None:
    job = BatchJob(model=str(model), input=(str(tables),), output=str(tmp_path / "out"), keep=KEEP, append_row_file_name=name)
    run_job(job)
    path = tmp_path / "out" / name
    expected = features(np.arange(250)) @ WEIGHTS
    if name.endswith(".csv"):
        table = pa.csv.read_csv(path)
        assert table.column_names == ["id", "store", "y_0", "y_1", "y_2"]
        values = np.stack([table.column(f"y_{index}").to_numpy() for index in range(3)], axis=1)
    elif name.endswith(".jsonl"):
        values = np.array([json.loads(line)["y"] for line in path.read_text().splitlines()])
    elif name.endswith(".arrow"):
        with pa.memory_map(str(path)) as source:
            values = np.array(pa.ipc.open_file(source).read_all().column("y").to_pylist())
    else:
        values = np.array([line.split()[2:] for line in path.read_text().splitlines()], float)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_csv_and_arrow_give_the_results_of_parquet(model: Path, tmp_path: Path) -> None:
    found = {}
    for form in ("csv", "arrow", "parquet"):
        folder = tmp_path / form
        folder.mkdir()
        _write(rows(90), folder / f"a.{form}")
        job = BatchJob(model=str(model), input=(str(folder),), output=str(tmp_path / f"out-{form}"), keep=KEEP)
        run_job(job)
        found[form] = pq.read_table(tmp_path / f"out-{form}" / "predictions.parquet")
    assert found["csv"].equals(found["parquet"])
    assert found["arrow"].equals(found["parquet"])


def _write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=20)


def test_parts_are_a_folder_of_parquet_files(model: Path, tables: Path, tmp_path: Path) -> None:
    job = BatchJob(
        model=str(model), input=(str(tables),), output=str(tmp_path / "out"), keep=KEEP, output_action=OutputAction.PARTS
    )
    report = run_job(job)
    assert report.output_files == ("part-000000.parquet", "part-000001.parquet", "part-000002.parquet")
    assert pq.read_table(tmp_path / "out").column("id").to_pylist() == list(range(250))


def test_summary_only_stores_no_results(model: Path, tables: Path, tmp_path: Path) -> None:
    job = BatchJob(
        model=str(model), input=(str(tables),), output=str(tmp_path / "out"), keep=KEEP, output_action=OutputAction.SUMMARY_ONLY
    )
    report = run_job(job)
    assert (report.succeeded, report.output_files) == (250, ())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".edgewright-batch", "_failures.jsonl", "_report.json"]


def test_a_mini_batch_has_all_rows_of_one_partition_key(script: Callable[[str], str], tables: Path, tmp_path: Path) -> None:
    body = "count = len(mini_batch)\nstores = mini_batch.store\n"
    body += "return [{'store': stores.iloc[0], 'stores': stores.nunique(), 'rows': count}] * count"
    job = BatchJob(script=script(body), input=(str(tables),), output=str(tmp_path / "out"), partition_keys=("store",))
    report = run_job(job)
    found = (
        pq.read_table(tmp_path / "out" / "predictions.parquet")
        .group_by(["store", "stores", "rows"])
        .aggregate([([], "count_all")])
    )
    assert sorted(map(tuple, (row.values() for row in found.to_pylist()))) == [("north", 1, 84, 84), ("south", 1, 166, 166)]
    assert (report.tasks, report.mini_batches) == (2, 2)


def test_labels_name_the_best_class() -> None:
    from edgewright.batch.results import from_arrays

    table = from_arrays({"scores": np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)}, ("cat", "dog"))
    assert table.column("label").to_pylist() == ["dog", "cat"]
