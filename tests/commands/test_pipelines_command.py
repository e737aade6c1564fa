"""`edgewright pipelines`, `jobs` and `schedules`, run against a real cloud with the example of the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.conftest import CommandLine

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline" / "pipeline.yaml"


def test_the_example_trains_scores_and_is_published(edgewright: CommandLine, tmp_path: Path) -> None:
    job = edgewright.json("jobs", "run", EXAMPLE, "--parameter", "share=0.4", "--experiment", "nightly")
    assert (job["state"], [step["state"] for step in job["steps"]]) == ("Completed", ["Completed", "Completed"])
    number = job["job"]
    assert "trained on 718 images, registered digits-sklearn:1" in edgewright.ok("jobs", "logs", number, "--step", "train")
    assert edgewright.ok("jobs", "logs", number, "--step", "score").startswith("scored 1079 images, accuracy 0.9")
    assert {each["path"] for each in edgewright.json("jobs", "files", number)} >= {"rest/images.npz", "outputs/result-labels.txt"}
    assert edgewright.ok("jobs", "download", number, "-o", tmp_path / "files").endswith("files: 5 files\n")
    lines = (tmp_path / "files" / "score" / "outputs" / "result-labels.txt").read_text().splitlines()
    assert len(lines) == 1079
    metrics = (tmp_path / "files" / "score" / "metrics.jsonl").read_text()
    assert json.loads(metrics)["name"] == "accuracy"
    published = edgewright.ok("pipelines", "publish", "digits-batch", EXAMPLE)
    assert published.startswith("published digits-batch:1; run it: edgewright jobs run digits-batch\n")
    shown = edgewright.ok("pipelines", "show", "digits-batch")
    assert "batch_size=20, share=0.5" in shown
    edgewright.ok("pipelines", "disable", "digits-batch")
    assert "is disabled: 'edgewright pipelines enable" in edgewright.refused("jobs", "run", "digits-batch")
    edgewright.ok("pipelines", "enable", "digits-batch:1")
    created = edgewright.json(
        "schedules", "create", "nightly", "digits-batch", "--cron", "0 2 * * *", "--time-zone", "Europe/Paris"
    )
    assert created["next_at"].endswith(("T01:00:00Z", "T00:00:00Z"))
    assert "0 2 * * * (Europe/Paris)" in edgewright.ok("schedules", "list")
    assert edgewright.json("schedules", "disable", "nightly")["next_at"] is None
    assert edgewright.ok("schedules", "delete", "nightly") == "deleted schedule nightly\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["jobs", "run", "missing.yaml"], "missing.yaml: no such file; a pipeline is a YAML file with 'steps'"),
        (["jobs", "run", "nothing-published"], "no pipeline is called 'nothing-published'"),
        (["jobs", "run", "bad.yaml"], "bad.yaml must be YAML, but it cannot be read"),
        (["jobs", "run", "script.yaml"], "gone.py: no such file; 'script' is a path in the folder 'source'"),
        (["jobs", "run", "field.yaml"], "field.yaml: Object missing required field `script` - at `$.steps[...]`"),
        (["jobs", "show", "999"], "there is no job 999; 'edgewright jobs list' shows them"),
        (["jobs", "cancel", "999"], "there is no job 999"),
        (["pipelines", "publish", "Bad", "script.yaml"], "a pipeline's name must be"),
        (["pipelines", "enable", "nothing-published:1"], "no pipeline is called 'nothing-published'"),
        (["schedules", "create", "x", "y"], "must have a cron expression or a folder"),
        (["schedules", "delete", "nothing"], "no schedule is called 'nothing'"),
    ],
)
def test_a_refusal_is_one_line(
    arguments: list[str], line: str, edgewright: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("steps: [")
    Path("script.yaml").write_text("steps: {a: {script: gone.py}}")
    Path("field.yaml").write_text("steps: {a: {source: .}}")
    assert line in edgewright.refused(*arguments)


def test_a_failed_job_is_exit_code_1_with_the_reason(edgewright: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("raise SystemExit(3)")
    (tmp_path / "fail.yaml").write_text("steps: {fail: {script: fail.py}}")
    result = edgewright.run("jobs", "run", tmp_path / "fail.yaml")
    assert result.exit_code == 1
    assert "step fail failed: the script ended with exit code 3; 'edgewright jobs logs" in result.stderr
    with_missing = edgewright.refused("jobs", "download", "999", "-o", tmp_path)
    assert with_missing.endswith("must not exist, but it does: choose another folder")
