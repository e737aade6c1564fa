"""Layers without an integer kernel: int8 and mxint8 store their weights in a quarter of the bytes, at the speed of float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from accel.backends.choose import load_session
from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind, VariantDirectory
from quantize.calibration.sqnr import decibels
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise

IDS = np.random.default_rng(0).integers(0, 300, (24, 7))
WIDTH, HIDDEN = 40, 36


def recurrent_network(path: Path) -> Path:
    """Write embedding, LSTM, GRU and a classifier; the sizes are no multiples of a block."""
    weights = {
        "table": noise(300, WIDTH, seed=1) * np.linspace(0.2, 2, WIDTH, dtype=np.float32),
        "w1": noise(1, 4 * HIDDEN, WIDTH, seed=2) / 6,
        "r1": noise(1, 4 * HIDDEN, HIDDEN, seed=3) / 6,
        "w2": noise(1, 3 * HIDDEN, HIDDEN, seed=4) / 6,
        "r2": noise(1, 3 * HIDDEN, HIDDEN, seed=5) / 6,
        "k": noise(HIDDEN, 32, seed=6) / 6,
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embedding"),
        helper.make_node("Transpose", ["rows"], ["steps"], name="steps_first", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w1", "r1"], ["states"], name="lstm", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["states", "one"], ["inner"], name="inner"),
        helper.make_node("GRU", ["inner", "w2", "r2"], ["", "last"], name="gru", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["last", "zero"], ["features"], name="features"),
        helper.make_node("MatMul", ["features", "k"], ["y"], name="classes"),
    ]
    axes = {"one": np.array([1]), "zero": np.array([0])}
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])],
        [numpy_helper.from_array(numbers, name) for name, numbers in {**weights, **axes}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    folder = tmp_path_factory.mktemp("recurrent")
    write_npz(folder / "ids.npz", {"ids": IDS})
    build = convert_model(recurrent_network(folder / "model.onnx"), folder / "build", ConvertOptions(samples=folder / "ids.npz"))
    for scheme in (Scheme.INT8, Scheme.MXINT8, Scheme.INT8_DYNAMIC):
        quantize(build, QuantizeOptions(scheme=scheme, samples=folder / "ids.npz"))
    return build


SCHEMES = pytest.mark.parametrize("name", ["int8", "mxint8", "int8-dynamic"])


@SCHEMES
def test_a_recurrent_network_takes_less_than_a_third_of_the_bytes(build: BuildDirectory, name: str) -> None:
    assert weight_bytes(build.variant(name)) * 3 < weight_bytes(build.variant("fp32"))


@SCHEMES
def test_a_recurrent_network_keeps_thirty_decibels(build: BuildDirectory, name: str) -> None:
    exact, rounded = (load_session(build.variant(one)).run({"ids": IDS})["y"] for one in ("fp32", name))
    assert decibels(float(np.square(exact).sum()), float(np.square(exact - rounded).sum())) > 30


@pytest.mark.parametrize("name", ["int8", "mxint8"])
def test_the_reference_evaluator_of_onnx_gives_the_same_outputs(build: BuildDirectory, name: str) -> None:
    made = build.variant(name)
    (expected,) = map(np.asarray, ReferenceEvaluator(onnx.load(made.file(LayerKind.GRAPH))).run(None, {"ids": IDS}))
    (found,) = load_session(made, backend="onnxruntime").run({"ids": IDS}).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * np.abs(expected).max())


def test_onnxruntime_expands_the_weights_of_recurrent_layers_once(build: BuildDirectory, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(build.variant("int8").file(LayerKind.GRAPH), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    read = {node.op_type: [types.get(name) for name in node.input] for node in graph.node}
    assert read["LSTM"][1:3] == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert read["GRU"][1:3] == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert TensorProto.INT8 in read["Gather"]


def weight_bytes(variant: VariantDirectory) -> int:
    return variant.file(LayerKind.HEAD_WEIGHTS).stat().st_size
