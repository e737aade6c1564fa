"""The rules of a pipeline's definition: one line for each mistake, and the values of parameters."""

from __future__ import annotations

from typing import Any

import pytest

from edgewright.contracts.models.registration import SourceFile
from edgewright.contracts.pipelines.definition import Pipeline, Step
from edgewright.contracts.pipelines.jobs import JobRequest
from edgewright.contracts.pipelines.schedules import ScheduleRequest
from edgewright.errors import BadInputError

FILE = SourceFile(path="score.py", digest="sha256:" + "0" * 64, size=1)


def step(name: str = "score", **fields: Any) -> Step:
    return Step(name=name, script="score.py", files=(FILE,), **fields)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], "must have 1 to 100 steps, not 0"),
        ([{}, {}], "different names, but 'score' is given twice"),
        ([{"name": "a b"}], "must be letters, digits, _ and -, at most 64, not 'a b'"),
        ([{"arguments": ("${{parameters.size}}",)}], "step score: there is no parameter 'size'; known: batch_size"),
        ([{"arguments": ("${{input.x}}",)}], r"an expression must be .* not '\$\{\{input.x\}\}'"),
        ([{"arguments": ("${{outputs.scores}}",)}], "there is no output 'scores'"),
        ([{"variables": {"X": "${{inputs.rows}}"}}], "there is no input 'rows'"),
        ([{"inputs": {"rows": "${{inputs.rows}}"}}], "an input must not refer to its own inputs"),
        ([{"inputs": {"rows": "${{steps.make.outputs.rows}}"}}], "step make has no output 'rows'"),
        ([{"arguments": ("${{steps.make.outputs.rows}}",)}], "an output of step make must be an input"),
        ([{"outputs": ("logs",)}], "an output must have a name of its own, not 'logs'"),
        ([{"outputs": ("a", "a")}], "an output must have a name of its own, not 'a'"),
        ([{"after": ("make",)}], "'after' must name a step, but there is no step 'make'"),
        (
            [{"name": "a", "after": ("b",)}, {"name": "b", "after": ("a",)}],
            "must not wait for each other, but they do: .* → ",
        ),
        ([{"timeout_s": 0}], "a timeout must be over 0 and at most 2592000 s, not 0"),
        ([{"retries": -1}], "retries must be 0 to 100, not -1"),
        ([{"variables": {"A-B": "1"}}], "a variable must have a name of letters, digits and _, not 'A-B'"),
    ],
)
def test_a_mistake_is_one_line(steps: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(BadInputError, match=text) as caught:
        Pipeline(steps=tuple(step(**fields) for fields in steps), parameters={"batch_size": 20})
    assert "\n" not in str(caught.value)


def test_a_script_must_be_among_the_files_and_below_the_folder() -> None:
    with pytest.raises(BadInputError, match=r"the script 'other.py' must be among its files"):
        Step(name="score", script="other.py", files=(FILE,))


def test_a_step_needs_those_whose_outputs_it_reads_and_those_that_it_names() -> None:
    reading = step("sum", inputs={"rows": "${{ steps.make.outputs.rows }}"}, after=("check",))
    assert reading.needs() == {"make", "check"}
    Pipeline(steps=(reading, step("make", outputs=("rows",)), step("check")))


@pytest.mark.parametrize(
    ("default", "value", "expected"),
    [
        (20, "50", 50),
        (20, 50, 50),
        (0.5, "1e-3", 0.001),
        (0.5, 2, 2.0),
        (False, "True", True),
        ("a", 3, "3"),
        ("a", "", ""),
    ],
)
def test_a_value_gets_the_type_of_the_default(default: Any, value: Any, expected: Any) -> None:
    values = Pipeline(steps=(step(),), parameters={"p": default, "q": 1}).with_values({"p": value})
    assert values == {"p": expected, "q": 1}
    assert type(values["p"]) is type(expected)


@pytest.mark.parametrize(
    ("default", "value", "text"),
    [
        (20, "many", "parameter p must be a whole number, as its default 20, not 'many'"),
        (20, True, "must be a whole number"),
        (20, 2.5, "must be a whole number"),
        (0.5, "nan", "must be a finite number"),
        (True, 1, "must be true or false"),
        ("a", True, "must be a text"),
    ],
)
def test_a_value_of_another_type_is_refused(default: Any, value: Any, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        Pipeline(steps=(step(),), parameters={"p": default}).with_values({"p": value})


def test_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(BadInputError, match="parameter 'batchsize' is unknown; known: batch_size"):
        Pipeline(steps=(step(),), parameters={"batch_size": 1}).with_values({"batchsize": 2})


def test_a_job_runs_a_published_pipeline_or_its_own() -> None:
    with pytest.raises(BadInputError, match="must name a published pipeline or bring a definition"):
        JobRequest()
    with pytest.raises(BadInputError, match="must name a published pipeline or bring a definition"):
        JobRequest(pipeline="a", definition=Pipeline(steps=(step(),)))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "must have a cron expression or a folder, and not both"),
        ({"cron": "* * * * *", "folder": "/data"}, "must have a cron expression or a folder, and not both"),
        ({"folder": "data"}, "must be an absolute path on the cloud's machine, not 'data'"),
        ({"folder": "/data", "poll_s": 0.1}, "poll_s must be 1 s to a day, not 0.1"),
    ],
)
def test_a_schedule_has_one_reason_to_start(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        ScheduleRequest(pipeline="digits", **fields)
