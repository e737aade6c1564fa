"""An operator that crashes the runtime in lower precision stays float; a graph that always crashes is refused in one line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from accel.first_run import FirstRuns
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import ModelError
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise
from tests.support.crashing_worker import VARIABLE
from tests.support.float_builds import float_build, float_model
from tests.support.quantize_builds import fresh_build, training_samples


def quantized_with_crash(path: Path, scheme: Scheme) -> VariantDirectory:
    build = fresh_build(path)
    with FirstRuns("tests.support.crashing_worker") as first_runs:
        return quantize(build, QuantizeOptions(scheme=scheme, samples=training_samples()), first_runs=first_runs).variant


def test_the_operator_that_crashes_in_half_precision_stays_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "half:Gemm")
    made = quantized_with_crash(tmp_path / "b", Scheme.FP16)
    nodes = onnx.load(made.path / "graph.onnx", load_external_data=False).graph.node
    assert {node.op_type for node in nodes if any(name.endswith("/half") for name in node.input)} >= {"Conv"}


def test_the_operator_that_crashes_in_integers_stays_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "integer:Conv")
    made = quantized_with_crash(tmp_path / "b", Scheme.INT8)
    graph = onnx.load(made.path / "graph.onnx", load_external_data=False).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    layers = {node.op_type: node.input[1] in dequantized for node in graph.node if node.op_type in ("Conv", "Gemm")}
    assert layers == {"Conv": False, "Gemm": True}


@pytest.mark.parametrize("scheme", [Scheme.FP16, Scheme.INT8, Scheme.MXINT8, Scheme.MIXED], ids=str)
def test_a_source_that_always_crashes_ends_with_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: Scheme
) -> None:
    monkeypatch.setenv(VARIABLE, "any:")
    with pytest.raises(ModelError) as raised:
        quantized_with_crash(tmp_path / "b", scheme)
    assert str(raised.value) == (
        f"{tmp_path}/b/variants/fp32: onnxruntime must run the variant, but the worker process was ended by SIGSEGV: "
        "export the model with another operator set"
    )
    assert [path.name for path in (tmp_path / "b/variants").iterdir()] == ["fp32"]


def test_a_scheme_whose_every_graph_crashes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "integer:Gemm")
    with pytest.raises(ModelError) as raised:
        quantized_with_crash(tmp_path / "b", Scheme.MXINT8)
    assert str(raised.value).endswith(
        "onnxruntime must run the variant, but the worker process was ended by SIGSEGV: use another scheme"
    )
    assert [path.name for path in (tmp_path / "b/variants").iterdir()] == ["fp32"]


def test_a_graph_that_really_crashes_onnxruntime_becomes_a_variant(tmp_path: Path) -> None:
    """onnxruntime 1.32 ends by SIGSEGV when it loads a product of a transposed tensor in half precision, which it fuses."""
    rows = noise(32, 4, 6)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="t", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["p"], name="p"),
        helper.make_node("Add", ["p", "b"], ["s"], name="s"),
        helper.make_node("Transpose", ["s"], ["y"], name="y", perm=[1, 0, 2]),
    ]
    write_npz(tmp_path / "x.npz", {"x": rows})
    build = float_build(tmp_path / "b", float_model(nodes, {"w": noise(6, 8, seed=1), "b": noise(8, seed=2)}, rows), rows)
    made = quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=tmp_path / "x.npz"))
    assert made.evaluation.max_relative_difference < 0.01
