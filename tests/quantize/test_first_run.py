"""A runtime that crashes on a new graph ends a worker process; the command ends with one line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgewright.errors import ModelError
from quantize import fp16
from quantize.first_run import crash_of
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.quantize_builds import fresh_build, training_samples


def test_a_graph_that_crashes_the_runtime_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = fresh_build(tmp_path / "b")
    monkeypatch.setattr(fp16, "crash_of", lambda graph: "onnxruntime: the worker process was ended by SIGSEGV")
    with pytest.raises(ModelError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=training_samples()))
    assert str(raised.value) == (
        f"{build.path}: fp16 needs a graph that onnxruntime can run, but onnxruntime: the worker process was ended by SIGSEGV: "
        "use int8 or mxint8"
    )


def test_a_graph_that_runs_or_is_refused_in_one_line_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    assert crash_of(tmp_path / "graph.onnx") is None


def test_the_operator_that_crashes_the_runtime_stays_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash_of_half_gemm(graph: Path) -> str | None:
        nodes = onnx.load(graph, load_external_data=False).graph.node
        halved = any(name.endswith("/half") for node in nodes if node.op_type == "Gemm" for name in node.input)
        return "ended by SIGSEGV" if halved else None

    build = fresh_build(tmp_path / "b")
    monkeypatch.setattr(fp16, "crash_of", crash_of_half_gemm)
    made = quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=training_samples())).variant
    nodes = onnx.load(made.path / "graph.onnx", load_external_data=False).graph.node
    assert any(name.endswith("/half") for node in nodes if node.op_type == "Conv" for name in node.input)
