"""Profiles of a real service: the size that is found holds, half of it does not, and an interrupted profile continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgewright.cli import main
from edgewright.contracts import wire
from edgewright.profiling.limits import Method, method_of_this_machine
from edgewright.profiling.profile import Profile, Report, Settings
from edgewright.profiling.search import Objective
from edgewright.profiling.service import ServiceOptions

BUSY_SCRIPT = """
import json, time

def init():
    pass

def run(raw):
    ends = time.thread_time() + 0.02
    while time.thread_time() < ends:
        pass
    return [len(json.loads(raw)["data"])]
"""
needs_groups = pytest.mark.skipif(
    method_of_this_machine() is not Method.CONTROL_GROUPS, reason="control groups cannot be written here"
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that needs 20 ms of a processor for a request."""
    path = tmp_path / "busy.py"
    path.write_text(BUSY_SCRIPT)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"data": [[1]]}\n{"data": [[1], [2]]}\n')
    return path


def command(*words: object) -> Result:
    return CliRunner().invoke(main, ["profile", *(str(word) for word in words)])


@needs_groups
def test_the_size_that_is_found_holds_and_half_of_it_does_not(script: Path, samples: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = (script, "--samples", samples, "--rate", 10, "--p95", "400ms", "--seconds", 1.5, "-o", page, "--json")
    result = command(*words, "--cpu", 0.15, "--cpu", 0.8)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    found = report["recommendation"]
    assert (found["cpu"], found["processes"]) == (0.8, 1), "10 requests of 20 ms need a fifth of a processor"
    assert found["latency_ms"] <= 400
    assert 20e6 < found["memory_used_bytes"] < found["memory_in_gb"] * 1e9
    held = {each["cpu"]: each["is_held"] for each in report["measurements"] if each["step"] == "search"}
    assert held == {0.15: False, 0.8: True}
    assert wire.decode(page.with_suffix(".json").read_bytes(), Report, what="report").is_finished
    text = page.read_text()
    assert "<strong class=figure>0.8 CPU" in text
    assert text.count("<polyline") >= 4


@needs_groups
def test_an_interrupted_profile_continues_with_what_was_measured(script: Path, tmp_path: Path) -> None:
    settings = Settings(
        target="busy",
        objective=Objective(rate=5, latency_ms=800),
        seconds=1,
        warm_up_s=0.2,
        cpus=(0.5, 1.0),
        method=Method.CONTROL_GROUPS,
    )
    file, steps = tmp_path / "report.json", list[str]()

    def interrupt(step: str) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    def profile(progress: Callable[[str], None]) -> Profile:
        service = ServiceOptions(path=script, runs_in_workers=True)
        return Profile(settings, service, [b'{"data": [[1]]}'], machine="this", file=file, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        profile(interrupt).run()
    before = wire.decode(file.read_bytes(), Report, what="report").measurements
    assert len(before) == 2
    later = list[str]()
    report = profile(later.append).run()
    assert report.measurements[:2] == before
    assert later[0] == steps[2]
    assert len(later) == len(report.measurements) - 2


@needs_groups
def test_a_rate_that_no_size_holds_is_said_with_the_best_one(script: Path, samples: Path, tmp_path: Path) -> None:
    words = (script, "--samples", samples, "--rate", 40, "--p95", "1s", "--seconds", 1, "--cpu", 0.3, "-o", tmp_path / "p.html")
    result = command(*words)
    assert result.exit_code == 1
    assert result.stdout.startswith("no size of this machine holds 40 requests/s with p95 <= 1000 ms: the largest holds ")
    assert (tmp_path / "p.html").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        pytest.param("", "one of --p50, --p95 and --p99, as in --p95 50ms, but 0 were given", id="no latency"),
        pytest.param("--p95 50ms --p99 1s", "but 2 were given", id="two latencies"),
        pytest.param("--p95 50", "must be a number and a unit, as in 50ms", id="no unit"),
        pytest.param("--p95 50ms --cpu 4000", "--cpu must be at most ", id="more processors than there are"),
        pytest.param("--p95 50ms --cpu 0.5 --limits affinity", "--cpu must be whole here, not 0.5", id="part of a processor"),
    ],
)
def test_bad_options_are_refused_in_one_line(script: Path, samples: Path, words: str, line: str) -> None:
    result = command(script, "--samples", samples, "--rate", 10, *words.split())
    assert result.exit_code == 2
    assert line in result.stderr
    assert not list(script.parent.glob("*.html"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("samples.jsonl", "", "samples must have at least one request", id="empty"),
        pytest.param("samples.json", "{", "samples must be readable as .json", id="no JSON"),
        pytest.param("samples.csv", "1,2", "samples must be a file .json, .jsonl, .npy, .npz, not ", id="format"),
        pytest.param("samples.npy", "x", "samples must be readable as .npy", id="no array"),
    ],
)
def test_bad_samples_are_refused_in_one_line(script: Path, tmp_path: Path, name: str, content: str, line: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    result = command(script, "--samples", path, "--rate", 10, "--p95", "1s")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert line in result.stderr


def test_samples_that_the_service_refuses_end_the_profile(script: Path, tmp_path: Path) -> None:
    script.write_text("def init(): pass\n\ndef run(raw):\n    return 1\n")
    samples = tmp_path / "s.json"
    samples.write_text('{"rows": []}')
    from sklearn.linear_model import LogisticRegression  # a model checks its requests, a script does not

    model = tmp_path / "model.pkl"
    import joblib

    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), model)
    result = command(model, "--trust", "--samples", samples, "--rate", 10, "--p95", "5s", "--seconds", 1, "--cpu", 1)
    assert result.exit_code == 1
    assert "the service must accept the samples, but it answered 4" in result.stderr
