"""int8 graphs are written in an operator set that onnxruntime can optimize."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from accel.npu.lowering.opset import lower_opset
from edgewright.contracts.variant import LayerKind
from quantize.scheme import Scheme
from tests.support.quantize_builds import variant


def signed(opset: int) -> onnx.ModelProto:
    """Return a convolution on int8 activations after a transposition, as for images with channels last."""
    constants = {
        "scale": np.float32(0.02), "zero": np.int8(7), "w": np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3),
        "w_scale": np.full(4, 0.01, np.float32), "w_zero": np.zeros(4, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_levels"]),
        helper.make_node("DequantizeLinear", ["x_levels", "scale", "zero"], ["x_float"]),
        helper.make_node("Transpose", ["x_float"], ["image"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["image_levels"]),
        helper.make_node("DequantizeLinear", ["image_levels", "scale", "zero"], ["image_float"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], axis=0),
        helper.make_node("Conv", ["image_float", "w_float"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["y_levels"]),
        helper.make_node("DequantizeLinear", ["y_levels", "scale", "zero"], ["y_float"]),
        helper.make_node("Transpose", ["y_float"], ["y"], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "signed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 6, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def load(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_a_graph_of_signed_activations_runs_once_its_operator_set_is_lowered() -> None:
    model = signed(21)
    lower_opset(model)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    expected = ReferenceEvaluator(signed(21)).run(None, {"x": images})
    assert isinstance(expected, list)
    np.testing.assert_allclose(load(model).run(None, {"x": images})[0], expected[0], atol=0.0201)  # a tie may round either way


def test_int8_variants_are_of_operator_set_20() -> None:
    for scheme in (Scheme.INT8, Scheme.MIXED):
        model = onnx.load(variant(scheme).file(LayerKind.GRAPH), load_external_data=False)
        assert [(opset.domain, opset.version) for opset in model.opset_import if opset.domain == ""] == [("", 20)]


@pytest.mark.parametrize("opset", [21, 22, 24])
def test_onnxruntime_still_rejects_such_graphs_in_newer_operator_sets(opset: int) -> None:
    with pytest.raises(Exception, match="output_dtype INT8 does not match y_zero_point type UINT8"):
        load(signed(opset))


def blocked() -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=0, block_size=32)


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(blocked(), id="weights in blocks"),
        pytest.param(helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2), id="an operator that changed"),
        pytest.param(helper.make_node("RMSNormalization", ["x", "s"], ["y"]), id="an operator that is newer"),
    ],
)
def test_a_graph_with_newer_operators_keeps_its_operator_set(node: onnx.NodeProto) -> None:
    model = helper.make_model(helper.make_graph([node], "new", [], []), opset_imports=[helper.make_opsetid("", 23)])
    lower_opset(model)
    assert model.opset_import[0].version == 23
