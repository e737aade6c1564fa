"""Graphs whose outputs for one sample depend on the others of its batch are found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from accel.backends.onnxruntime_cpu import load_graph
from accel.independence import samples_are_independent
from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.samples import Samples, write_npz
from edgewright.contracts.variant import FLOAT_VARIANT

NODE = helper.make_node
WEIGHTS = {
    "w": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
    "zero": np.array([0]),
    "whole": np.array([-1]),
    "one_row": np.array([1, 8]),
}


def graph_file(path: Path, nodes: list[NodeProto]) -> Path:
    """Write a graph from x float32[N, 8] to y float32[N, 4] or [N, 8]."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [result], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, path)
    return path


DYNAMIC = [
    NODE("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantize"),
    NODE("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
    NODE("MatMul", ["d", "w"], ["y"], name="m"),
]


@pytest.mark.parametrize(
    ("nodes", "independent"),
    [
        pytest.param([NODE("MatMul", ["x", "w"], ["y"])], True, id="a matrix"),
        pytest.param([NODE("Softmax", ["x"], ["y"], axis=1)], True, id="softmax of a sample"),
        pytest.param([NODE("Softmax", ["x"], ["y"], axis=0)], False, id="softmax over the batch"),
        pytest.param(DYNAMIC, False, id="dynamic quantization"),
        pytest.param([NODE("ReduceMean", ["x"], ["m"], axes=[0]), NODE("Sub", ["x", "m"], ["y"])], False, id="mean of the batch"),
        pytest.param([NODE("CumSum", ["x", "zero"], ["y"])], False, id="sum along the batch"),
        pytest.param([NODE("Transpose", ["x"], ["y"], perm=[1, 0])], False, id="no batch axis"),
        pytest.param([NODE("Reshape", ["x", "one_row"], ["y"])], False, id="runs with one sample only"),
    ],
)
def test_graphs_that_mix_samples_are_found_out(tmp_path: Path, nodes: list[NodeProto], independent: bool) -> None:
    samples = Samples({"x": np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)})
    assert samples_are_independent(load_graph(graph_file(tmp_path / "g.onnx", nodes)), samples) is independent


def test_a_converted_graph_that_mixes_samples_is_marked_and_compared_one_sample_at_a_time(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(40, 8)).astype(np.float32)
    write_npz(tmp_path / "x.npz", {"x": x})
    build = convert_model(graph_file(tmp_path / "g.onnx", DYNAMIC), tmp_path / "b", ConvertOptions(samples=tmp_path / "x.npz"))
    assert build.record.independent_samples is False
    assert build.variant(FLOAT_VARIANT).config.independent_samples is False
    golden = np.load(build.graph / "golden_outputs.npz")["y"]
    session = load_graph(build.graph / "graph.onnx")
    np.testing.assert_allclose(golden, [session.run({"x": x[place : place + 1]})["y"][0] for place in range(32)], rtol=1e-5)
