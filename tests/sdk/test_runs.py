"""Runs outside of a job: the verbs of azureml-core 1.61 (`azureml/core/run.py`), with the examples of its documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk import Experiment, Run, TelemetryClient, Workspace
from edgewright.sdk.workspace.telemetry import stored_telemetry
from tests.support.embedded_cloud import scratch_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    with scratch_folder(tmp_path) as folder:
        yield folder
        assert not (folder / ".edgewright" / "cloud").exists()  # a run needs no cloud


@pytest.fixture
def run() -> Run:
    return Run.get_context()


def test_values_lists_rows_and_tables_are_returned_by_name(run: Run) -> None:
    run.log("accuracy", np.float32(0.5))
    for loss in (3, 2, 1):
        run.log("loss", loss)
    run.log("kernel", "rbf")
    run.log_list("accuracies", [0.6, 0.7, 0.87])
    for fruit, size in (("orange", 10), ("lemon", 7), ("lime", 3)):
        run.log_row("citrus", fruit=fruit, size=size)
    run.log_table("Y over X", {"x": [1, 2, 3], "y": np.array([0.6, 0.7, 0.89])})
    assert run.get_metrics() == {
        "accuracy": 0.5,
        "loss": [3, 2, 1],
        "kernel": "rbf",
        "accuracies": [0.6, 0.7, 0.87],
        "citrus": {"fruit": ["orange", "lemon", "lime"], "size": [10, 7, 3]},
        "Y over X": {"x": [1, 2, 3], "y": [0.6, 0.7, 0.89]},
    }
    assert Run(run_id=run.id).get_metrics("loss") == {"loss": [3, 2, 1]}


def test_a_run_that_was_killed_while_it_wrote_a_line_keeps_the_others(run: Run, folder: Path) -> None:
    run.log("loss", 1)
    with (folder / ".edgewright" / "runs" / run.id / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "value", "na')
    assert run.get_metrics() == {"loss": 1}


def test_tags_and_the_state_are_kept(run: Run) -> None:
    run.tag("stage", "test")
    run.tag("stage", 2)
    run.tag("checked")
    assert (run.get_tags(), run.get_status()) == ({"stage": "2", "checked": "None"}, "Running")
    run.complete()
    assert Run(run_id=run.id).get_status() == "Completed"
    failed = Run()
    failed.fail(error_details="no data")
    assert Run(run_id=failed.id).get_status() == "Failed"


def test_files_are_kept_and_come_back(run: Run, folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"weights")
    (folder / "plots").mkdir()
    (folder / "plots" / "a.csv").write_text("1,2")
    (folder / "outputs" / "result.txt").write_text("result")
    run.upload_file("outputs/model.pkl", "model.pkl")
    run.upload_folder("plots", "plots")
    assert run.get_file_names() == ["outputs/model.pkl", "outputs/result.txt", "plots/a.csv"]
    run.download_file("outputs/model.pkl", "back.pkl")
    assert (folder / "back.pkl").read_bytes() == b"weights"
    run.download_file("outputs/result.txt", "deep/below/result.txt")
    assert (folder / "deep" / "below" / "result.txt").read_text() == "result"
    run.download_file("plots/a.csv", "deep")  # a folder
    assert (folder / "deep" / "a.csv").read_text() == "1,2"
    with pytest.raises(NotFoundError, match=r"must have a file none\.txt, but it has: outputs/model\.pkl"):
        run.download_file("none.txt")
    with pytest.raises(NotFoundError, match=r"missing\.pkl: no such file"):
        run.upload_file("outputs/m.pkl", "missing.pkl")
    with pytest.raises(BadInputError, match=r"must stay below the run, but '\.\./x' does not"):
        run.upload_file("../x", "model.pkl")


def test_child_runs_belong_to_their_parent(run: Run) -> None:
    run.log("A", 1)
    with run.child_run("first") as child:
        child.log("A", 2)
    with pytest.raises(ValueError, match="no data"), run.child_run() as other:
        raise ValueError("no data")
    grandchild = child.child_run()
    assert (child.id, child.get_status(), other.get_status()) == (f"{run.id}.first", "Completed", "Failed")
    assert [each.id for each in run.get_children()] == [other.id, child.id]
    assert {each.id for each in run.get_children(recursive=True)} == {other.id, child.id, grandchild.id}
    assert child.parent is not None
    assert (child.parent.id, run.parent) == (run.id, None)
    assert run.get_metrics() == {"A": 1}
    assert run.get_metrics(recursive=True) == {run.id: {"A": 1}, child.id: {"A": 2}, other.id: {}, grandchild.id: {}}


def test_an_experiment_lists_its_runs_newest_first() -> None:
    experiment = Experiment(Workspace(), "digits")
    with experiment.start_logging() as first:
        first.log("a", 1)
    second = experiment.start_logging()
    first.tag("late", 1)  # a change does not make it newer
    Experiment(Workspace(), "other").start_logging()
    second.child_run()
    assert [each.id for each in experiment.get_runs()] == [second.id, first.id]
    assert first.get_status() == "Completed"


def test_telemetry_of_a_script_of_a_job_is_kept_with_its_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_RUN_ID", "job-7")
    client = TelemetryClient("key")
    client.track_metric("gpu", 40)
    assert stored_telemetry() == []
    client.flush()
    assert Run.get_context(allow_offline=False).id == "job-7"
    [item] = stored_telemetry(folder / ".edgewright" / "runs" / "job-7")
    assert (item["kind"], item["name"], item["value"]) == ("metric", "gpu", 40.0)
    assert json.loads((folder / ".edgewright" / "runs" / "job-7" / "telemetry.jsonl").read_text()) == item


def test_a_script_that_needs_a_job_is_refused_outside_of_one() -> None:
    with pytest.raises(BadInputError, match="allow_offline=True permits that"):
        Run.get_context(allow_offline=False)
