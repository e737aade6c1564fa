"""A runtime that crashes on a new graph ends a worker process, not the command; the next graph gets a new worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.first_run import FirstRuns, check_graph
from edgewright.errors import ModelError
from tests.support.crashing_worker import VARIABLE
from tests.support.tiny_variants import make_variant

CRASHING = "tests.support.crashing_worker"


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[FirstRuns]:
    monkeypatch.setenv(VARIABLE, "any:")
    with FirstRuns(CRASHING) as first_runs:
        yield first_runs


def test_a_crash_names_the_signal_and_the_next_graph_gets_a_new_worker(tmp_path: Path, crashing: FirstRuns) -> None:
    graph = make_variant(tmp_path / "fp32").path / "graph.onnx"
    assert [crashing.crash_of(graph) for _ in range(2)] == ["the worker process was ended by SIGSEGV"] * 2


def test_a_variant_that_crashes_its_backend_is_refused_in_one_line(tmp_path: Path, crashing: FirstRuns) -> None:
    variant = make_variant(tmp_path / "fp32")
    with pytest.raises(ModelError) as raised:
        crashing.check_variant(variant)
    assert str(raised.value) == (
        f"{variant.path}: onnxruntime must run the variant, but the worker process was ended by SIGSEGV: "
        "export the model with another operator set"
    )


def test_graphs_that_run_or_are_refused_in_one_line_are_no_crashes(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "fp32")
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with FirstRuns() as first_runs:
        crashes = [first_runs.crash_of(path) for path in (variant.path / "graph.onnx", tmp_path / "graph.onnx", variant.path)]
    assert crashes == [None, None, None]


def test_a_graph_that_ran_needs_no_second_worker(tmp_path: Path) -> None:
    graph = make_variant(tmp_path / "fp32").path / "graph.onnx"
    with FirstRuns() as first_runs:
        assert first_runs.crash_of(graph) is None
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/graph.onnx").write_bytes(graph.read_bytes())
    assert first_runs.crash_of(tmp_path / "copy/graph.onnx") is None
    assert first_runs._worker is None


def test_a_source_that_crashes_onnxruntime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "any:")
    graph = make_variant(tmp_path / "fp32").path / "graph.onnx"
    with pytest.raises(ModelError) as raised:
        check_graph(graph, tmp_path / "model.pt2", CRASHING)
    assert str(raised.value) == (
        f"{tmp_path}/model.pt2: onnxruntime must run the converted graph, but the worker process was ended by SIGSEGV: "
        "export the model with another operator set"
    )
