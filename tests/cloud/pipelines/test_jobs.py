"""Jobs of a real cloud: what steps pass on, how they fail, and that kills of each process lose and repeat nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgewright.contracts.names import PackageReference
from edgewright.contracts.pipelines.definition import Pipeline, Step, Value
from edgewright.contracts.pipelines.jobs import JobRecord, JobRequest, JobState, PublishRequest, StepState
from edgewright.contracts.pipelines.schedules import ScheduleRequest
from edgewright.errors import BadInputError, ConflictError, EdgewrightError, NotFoundError
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud, running

MAKE = """
import pathlib, sys
from edgewright.sdk import Run
folder, count = sys.argv[1:]
Run.get_context().log("rows", int(count))
pathlib.Path(folder, "rows.txt").write_text("\\n".join(map(str, range(int(count)))))
pathlib.Path("outputs/labels.txt").write_text("0:1\\n")
print("wrote", count)
"""
SUM = """
import pathlib, sys
print(sum(map(int, pathlib.Path(sys.argv[1], "rows.txt").read_text().split())))
"""
FLAKY = """
import pathlib, sys
marks = pathlib.Path(sys.argv[1])
marks.write_text((marks.read_text() if marks.exists() else "") + "x")
sys.exit(0 if len(marks.read_text()) > 2 else 7)
"""
WAIT = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / "begun").open("a") as stream:
    stream.write(f"{os.getpid()}\\n")
while not (folder / "go").exists():
    time.sleep(0.01)
with (folder / "done").open("a") as stream:
    stream.write("done\\n")
"""


def wait_until(condition: Callable[[], Any], timeout_s: float = 90.0) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, "the condition did not become true"
        time.sleep(0.02)


class Author:
    """Makes pipelines of scripts and runs them."""

    def __init__(self, client: CloudClient, folder: Path) -> None:
        self.client, self.folder = client, folder

    def step(self, name: str, text: str, *arguments: str, **fields: Any) -> Step:
        script = self.folder / f"{name}.py"
        script.write_text(text)
        files = self.client.push_step_files([(script.name, script)])
        return Step(name=name, script=script.name, files=files, arguments=arguments, **fields)

    def run(self, *steps: Step, **fields: Any) -> JobRecord:
        definition = Pipeline(steps=steps, parameters=fields.pop("parameters", {}))
        record = self.client.submit_job(JobRequest(definition=definition, **fields))
        return self.end_of(record)

    def end_of(self, record: JobRecord) -> JobRecord:
        *_, last = self.client.watch_job(record.job, timeout_s=120)
        return last

    def log(self, record: JobRecord, step: str) -> str:
        return self.client.step_log(record.job, step).text


@pytest.fixture
def author(client: CloudClient, tmp_path: Path) -> Author:
    return Author(client, tmp_path)


def numbers(author: Author) -> tuple[Step, Step]:
    make = author.step("make", MAKE, "${{outputs.rows}}", "${{parameters.count}}", outputs=("rows",))
    total = author.step("total", SUM, "${{inputs.rows}}", inputs={"rows": "${{steps.make.outputs.rows}}"})
    return make, total


def test_a_step_reads_what_an_earlier_one_wrote(author: Author, tmp_path: Path) -> None:
    record = author.run(*reversed(numbers(author)), parameters={"count": 5})
    assert record.state is JobState.COMPLETED
    assert author.log(record, "make") == "wrote 5\n"
    assert author.log(record, "total") == "10\n"
    make, total = (next(step for step in record.steps if step.name == name) for name in ("make", "total"))
    assert make.ended_at is not None
    assert total.started_at is not None
    assert make.ended_at <= total.started_at
    files = {file.path: file for file in author.client.step_files(record.job, "make")}
    assert set(files) == {"outputs/labels.txt", "rows/rows.txt", "metrics.jsonl"}
    author.client.download_step_file(files["rows/rows.txt"], record.job, tmp_path / "new" / "rows.txt")
    assert (tmp_path / "new" / "rows.txt").read_text() == "0\n1\n2\n3\n4"


def test_a_step_is_repeated_as_often_as_it_may(author: Author, tmp_path: Path) -> None:
    good = author.run(author.step("flaky", FLAKY, str(tmp_path / "good"), retries=2))
    assert (good.state, good.steps[0].attempt) == (JobState.COMPLETED, 3)
    bad = author.run(author.step("flaky", FLAKY, str(tmp_path / "bad"), retries=1), author.step("next", "", after=("flaky",)))
    assert (bad.state, bad.reason) == (JobState.FAILED, "step flaky failed: the script ended with exit code 7")
    assert [(step.state, step.attempt) for step in bad.steps] == [(StepState.FAILED, 2), (StepState.CANCELED, 0)]
    assert (tmp_path / "bad").read_text() == "xx"
    with pytest.raises(ConflictError, match="step next must have been started to have files"):
        author.client.step_files(bad.job, "next")


def test_a_step_that_takes_too_long_is_ended_with_its_processes(author: Author, tmp_path: Path) -> None:
    text = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
    record = author.run(author.step("slow", text, WAIT, str(tmp_path), timeout_s=3.0))
    assert (record.state, record.steps[0].reason) == (JobState.FAILED, "it must end within 3 s, but it did not")
    child = int((tmp_path / "begun").read_text())
    wait_until(partial(has_ended, child))


def test_a_canceled_job_ends_its_processes(author: Author, tmp_path: Path) -> None:
    steps = author.step("wait", WAIT, str(tmp_path)), author.step("next", "", after=("wait",))
    record = author.client.submit_job(JobRequest(definition=Pipeline(steps=steps)))
    wait_until((tmp_path / "begun").exists)
    assert author.client.cancel_job(record.job).state is JobState.CANCELING
    end = author.end_of(record)
    assert (end.state, {step.state for step in end.steps}) == (JobState.CANCELED, {StepState.CANCELED})
    assert has_ended(int((tmp_path / "begun").read_text()))
    with pytest.raises(ConflictError, match=f"job {record.job} must be running to be canceled, but it is Canceled"):
        author.client.cancel_job(record.job)


def test_a_killed_script_and_a_killed_parent_of_it_are_failures(author: Author, tmp_path: Path) -> None:
    for victim, reason in (("script", "the script was ended by SIGKILL"), ("parent", "its process was killed")):
        folder = tmp_path / victim
        folder.mkdir()
        record = author.client.submit_job(JobRequest(definition=Pipeline(steps=(author.step("wait", WAIT, str(folder)),))))
        wait_until((folder / "begun").exists)
        script = int((folder / "begun").read_text())
        os.kill(script if victim == "script" else parent_of(script), signal.SIGKILL)
        if victim == "parent":
            (folder / "go").touch()  # the script continues until it ends
            wait_until(partial(has_ended, script))
        end = author.end_of(record)
        assert (end.state, end.steps[0].reason) == (JobState.FAILED, reason)


def test_published_versions_run_until_they_are_disabled(cloud: RunningCloud, author: Author) -> None:
    definition = Pipeline(steps=numbers(author), parameters={"count": 3})
    first = author.client.publish_pipeline("numbers", PublishRequest(definition=definition, description="sums"))
    second = author.client.publish_pipeline("numbers", PublishRequest(definition=definition))
    assert (first.version, second.version) == (1, 2)
    assert [each.version for each in author.client.pipelines() if each.pipeline == "numbers"] == [2]
    body = {"ExperimentName": "Nightly", "ParameterAssignments": {"count": "4"}, "RunSource": "SDK"}
    answer = cloud.operator().post(first.endpoint.removeprefix(cloud.url), body)
    job = author.end_of(author.client.job(int(answer.json()["Id"])))
    assert (job.pipeline, job.experiment, job.parameters) == ("numbers:1", "nightly", {"count": 4})
    assert author.log(job, "total") == "6\n"
    assert cloud.anonymous().post(first.endpoint.removeprefix(cloud.url), body).status == 401
    author.client.enable_pipeline(PackageReference("numbers", 2), is_enabled=False)
    assert author.client.submit_job(JobRequest(pipeline="numbers")).pipeline == "numbers:1"
    with pytest.raises(ConflictError, match="pipeline numbers:2 is disabled: 'edgewright pipelines enable numbers:2'"):
        author.client.submit_job(JobRequest(pipeline="numbers:2"))
    refusals: list[tuple[str, dict[str, Value], type[EdgewrightError], str]] = [
        ("number", {}, NotFoundError, "no pipeline is called 'number'; known: numbers"),
        ("numbers:9", {}, NotFoundError, "pipeline numbers has no version 9; its newest is 2"),
        ("numbers", {"size": 1}, BadInputError, "parameter 'size' is unknown; known: count"),
    ]
    for name, values, kind, text in refusals:
        with pytest.raises(kind, match=text):
            author.client.submit_job(JobRequest(pipeline=name, parameters=values))


def test_a_folder_with_new_files_starts_one_job(author: Author, tmp_path: Path) -> None:
    watched = tmp_path / "incoming"
    watched.mkdir()
    (watched / "old.csv").write_text("1")
    definition = Pipeline(steps=(author.step("list", "import os, sys\nprint(sorted(os.listdir(sys.argv[1])))", str(watched)),))
    author.client.publish_pipeline("incoming", PublishRequest(definition=definition))
    request = ScheduleRequest(pipeline="incoming", folder=str(watched), poll_s=1, experiment="incoming")
    created = author.client.create_schedule("incoming", request)
    assert (created.is_enabled, created.last_job) == (True, None)
    (watched / "new.csv").write_text("2")
    wait_until(lambda: author.client.schedule("incoming").last_job)
    record = author.end_of(author.client.job(author.client.schedule("incoming").last_job or 0))
    assert (record.schedule, author.log(record, "list")) == ("incoming", "['new.csv', 'old.csv']\n")
    looked = author.client.schedule("incoming").next_at
    wait_until(lambda: author.client.schedule("incoming").next_at != looked)
    assert author.client.enable_schedule("incoming", is_enabled=False).next_at is None
    assert len(author.client.jobs(experiment="incoming")) == 1
    author.client.delete_schedule("incoming")
    with pytest.raises(NotFoundError, match="no schedule is called 'incoming'"):
        author.client.schedule("incoming")


def test_a_schedule_that_could_not_start_a_job_is_refused(author: Author, tmp_path: Path) -> None:
    author.client.publish_pipeline("daily", PublishRequest(definition=Pipeline(steps=(author.step("a", ""),))))
    for request, text in (
        (ScheduleRequest(pipeline="daly", cron="0 6 * * *"), "no pipeline is called 'daly'; known: daily"),
        (ScheduleRequest(pipeline="daily", cron="0 6 * *"), "must have five valid fields"),
        (ScheduleRequest(pipeline="daily", cron="0 6 * * *", time_zone="Mars/Base"), "IANA data base"),
        (ScheduleRequest(pipeline="daily", cron="0 6 * * *", parameters={"x": 1}), "parameter 'x' is unknown"),
        (ScheduleRequest(pipeline="daily", folder=str(tmp_path / "missing")), "no such folder on the cloud's machine"),
    ):
        with pytest.raises(BadInputError, match=text):
            author.client.create_schedule("daily", request)
    assert "daily" not in [each.schedule for each in author.client.schedules()]


def test_a_kill_of_the_cloud_neither_ends_nor_repeats_a_step(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, "--no-broker") as killed, CloudClient.connect(str(state)) as client:
        author = Author(client, tmp_path)
        steps = author.step("wait", WAIT, str(tmp_path)), author.step("next", "print('next')", after=("wait",))
        record = client.submit_job(JobRequest(definition=Pipeline(steps=steps)))
        wait_until((tmp_path / "begun").exists)
        killed.kill()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists)
    with running(state, "--no-broker"), CloudClient.connect(str(state)) as client:
        author = Author(client, tmp_path)
        end = author.end_of(record)
        assert (end.state, [step.attempt for step in end.steps]) == (JobState.COMPLETED, [1, 1])
        assert author.log(end, "next") == "next\n"
    assert (tmp_path / "done").read_text() == "done\n"


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
