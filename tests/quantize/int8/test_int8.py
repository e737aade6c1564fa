"""Integer precision: real quantizers, float softmax, no silent float model."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import folder
from tests.support.quantize_builds import build_without_weights, variant


def graph() -> onnx.GraphProto:
    return onnx.load(variant(Scheme.INT8).file(LayerKind.GRAPH)).graph


def test_convolutions_and_matrices_read_dequantized_weights_per_channel() -> None:
    sizes = {tensor.name: list(tensor.dims) for tensor in graph().initializer}
    readers = {node.input[0]: sizes[node.input[1]] for node in graph().node if node.input and node.input[0] in sizes}
    assert readers == {"stem/Conv/kernel/q": [12], "block/Conv/kernel/q": [12], "hidden/kernel/q": [24], "classes/kernel/q": [10]}


def test_onnxruntime_computes_every_layer_in_integers(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(variant(Scheme.INT8).file(LayerKind.GRAPH), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    operators = [node.op_type for node in optimized.graph.node]
    assert operators.count("QLinearConv") == 2
    assert operators.count("QGemm") == 2
    assert not {"Conv", "Gemm", "MatMul"} & set(operators)


def test_activations_are_uint8_and_weights_int8() -> None:
    types = {tensor.name: tensor.data_type for tensor in graph().initializer}
    assert {types[name] for name in types if name.endswith("kernel/q")} == {onnx.TensorProto.INT8}
    zero_points = {types[node.input[2]] for node in graph().node if node.op_type == "QuantizeLinear"}
    assert zero_points == {onnx.TensorProto.UINT8}


def test_softmax_stays_float() -> None:
    last = graph().node[-1]
    assert last.op_type == "Softmax"
    assert list(last.output) == ["classes"]


def test_the_tolerance_leaves_room_for_other_processors() -> None:
    config = variant(Scheme.INT8).config
    assert config.measured is not None
    assert config.tolerance.min_agreement <= 0.9
    assert config.tolerance.max_relative_difference >= 2 * config.measured.max_relative_difference


def test_a_model_without_integer_kernels_is_refused() -> None:
    build = build_without_weights()
    with pytest.raises(ModelError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=folder() / "rows.npz"))
    assert str(raised.value) == (
        f"{build.path}: int8 needs operators with integer kernels (Conv, Gemm, MatMul, …), but the graph has ['CumSum']"
    )
    assert [one.config.variant for one in build.variants()] == ["fp32"]
