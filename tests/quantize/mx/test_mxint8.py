"""The mxint8 variant: blocks in standard ONNX, small, close to float, with the same outputs in ONNX's reference evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from accel.backends.choose import load_session
from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import ModelError
from quantize.calibration.sqnr import decibels
from quantize.mx.encoding import BLOCK
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import noise
from tests.support.quantize_builds import build_without_weights, onnx_file


def every_layout(path: Path) -> Path:
    """Write a network with every kind of weight: few channels, depthwise, a short last block, transposed, matrices either way."""
    weights = {
        "few": noise(40, 3, 3, 3, seed=1),
        "depthwise": noise(40, 1, 3, 3, seed=2),
        "short": noise(36, 40, 1, 1, seed=3),
        "transposed": noise(36, 20, 2, 2, seed=4),
        "matrix": noise(20 * 16, 70, seed=5),
        "turned": noise(9, 70, seed=6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "few"], ["a"], name="few", strides=[2, 2]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], name="depthwise", group=40),
        helper.make_node("Conv", ["b", "short"], ["c"], name="short", strides=[2, 2]),
        helper.make_node("ConvTranspose", ["c", "transposed"], ["d"], name="transposed", strides=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("MatMul", ["e", "matrix"], ["f"], name="matrix"),
        helper.make_node("Gemm", ["f", "turned"], ["y"], name="turned", transB=1),
    ]
    return onnx_file(path, nodes, weights, given=("x", ["N", 3, 12, 12]), wanted=("y", ["N", 9]))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> BuildDirectory:
    folder = tmp_path_factory.mktemp("layouts")
    return convert_model(every_layout(folder / "model.onnx"), folder / "build", ConvertOptions())


@pytest.fixture(scope="module")
def made(build: BuildDirectory) -> VariantDirectory:
    return quantize(build, QuantizeOptions(scheme=Scheme.MXINT8, samples=None)).variant


def test_six_layers_of_every_layout_keep_thirty_decibels(build: BuildDirectory, made: VariantDirectory) -> None:
    rows = noise(32, 3, 12, 12, seed=8)
    exact, rounded = (load_session(one).run({"x": rows})["y"] for one in (build.variant("fp32"), made))
    assert decibels(float(np.square(exact).sum()), float(np.square(exact - rounded).sum())) > 30


def test_every_weight_is_an_int8_with_a_byte_of_scale_per_block(made: VariantDirectory) -> None:
    graph = onnx.load(made.file(LayerKind.GRAPH)).graph
    blocks = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    sizes = {next(attribute.i for attribute in node.attribute if attribute.name == "block_size") for node in blocks}
    assert len(blocks) == 6
    assert sizes == {BLOCK}
    assert {tensor.data_type for tensor in graph.initializer} == {TensorProto.INT8, TensorProto.INT64}


def test_the_reference_evaluator_of_onnx_gives_the_same_outputs(build: BuildDirectory, made: VariantDirectory) -> None:
    rows = noise(4, 3, 12, 12, seed=9)
    (expected,) = map(np.asarray, ReferenceEvaluator(onnx.load(made.file(LayerKind.GRAPH))).run(None, {"x": rows}))
    (found,) = load_session(made, backend="onnxruntime").run({"x": rows}).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_another_runtime_runs_it_too(made: VariantDirectory) -> None:
    rows = noise(4, 3, 12, 12, seed=9)
    plain = onnxruntime.InferenceSession(made.file(LayerKind.GRAPH), providers=["CPUExecutionProvider"])
    (ours,) = load_session(made, backend="onnxruntime").run({"x": rows}).values()
    # Left alone, onnxruntime computes blocked matrices in int8 and rounds what is multiplied with them, too.
    (found,) = map(np.asarray, plain.run(None, {"x": rows}))
    np.testing.assert_allclose(found, ours, rtol=0, atol=0.02 * np.abs(ours).max())


def test_a_model_without_weights_is_refused() -> None:
    build = build_without_weights()
    with pytest.raises(ModelError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.MXINT8, samples=None))
    assert str(raised.value) == (
        f"{build.path}: mxint8 needs layers with weights (Conv, Gemm, MatMul, …), but the graph has ['CumSum']"
    )
    assert [one.config.variant for one in build.variants()] == ["fp32"]


def test_a_tied_weight_has_blocks_for_each_direction_and_names_that_exist_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["w/q"], name="along"),
        helper.make_node("Relu", ["w/q"], ["w/dq"], name="relu"),
        helper.make_node("Gemm", ["w/dq", "w"], ["y"], name="across", transB=1),
    ]
    source = onnx_file(tmp_path / "m.onnx", nodes, {"w": noise(40, 40)}, given=("x", ["N", 40]), wanted=("y", ["N", 40]))
    made = quantize(convert_model(source, tmp_path / "b", ConvertOptions()), QuantizeOptions(scheme=Scheme.MXINT8, samples=None))
    axes = [
        one.attribute[0].i
        for one in onnx.load(made.variant.file(LayerKind.GRAPH)).graph.node
        if one.op_type == "DequantizeLinear"
    ]
    assert len(axes) == 2
    assert made.evaluation.max_relative_difference < 0.05
