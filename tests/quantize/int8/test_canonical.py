"""The form before quantization: the same results, and an int8 graph that agrees, for every attribute and every way of sharing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.contracts.samples import Samples
from hardware_profiles.hardware_profile import Int8Types
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.calibrate import tensor_ranges
from quantize.int8.canonical import canonicalize
from quantize.int8.qdq import QdqFormat, quantized_graph

F = np.float32
node = helper.make_node
ROWS, DEPTH, CHANNELS = 32, 8, 5


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(F)


def network(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, Any], given: dict[str, Any], output: str = "y"
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in given.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, given: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


def check(model: onnx.ModelProto, given: dict[str, Any], *, integer_biases: bool = False) -> onnx.ModelProto:
    """Compare the canonical graph exactly, and its int8 form within a few steps, with the original on onnxruntime."""
    expected = run(model, given)
    canonicalize(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, given), expected, rtol=1e-4, atol=1e-5)
    ranges = tensor_ranges(ObservedGraph(model), Samples(given))
    quantized = quantized_graph(model, ranges, form=QdqFormat(types=Int8Types.U8S7, integer_biases=integer_biases))
    np.testing.assert_allclose(run(quantized, given), expected, atol=0.03 * np.abs(expected).max())
    return quantized


FACTORS = list(product([1.0, 0.5, -2.0], [1.0, 3.0, 0.0], [0, 1], [0, 1]))
BIASES: dict[str, Any] = {
    "channels": (CHANNELS,),
    "row": (1, CHANNELS),
    "scalar": (),
    "one": (1,),
    "column": (ROWS, 1),
    "matrix": (ROWS, CHANNELS),
    "computed": None,
    "none": None,
}


@pytest.mark.parametrize("integer_biases", [False, True], ids=["float bias", "integer bias"])
@pytest.mark.parametrize("bias", BIASES)
def test_every_gemm_keeps_its_results(bias: str, integer_biases: bool) -> None:
    for alpha, beta, trans_a, trans_b in FACTORS:
        given = {"x": numbers(*((DEPTH, ROWS) if trans_a else (ROWS, DEPTH)))}
        weights = {"w": numbers(*((CHANNELS, DEPTH) if trans_b else (DEPTH, CHANNELS)), seed=1)}
        names = ["x", "w"]
        nodes = []
        if bias == "computed":
            weights["v"] = weights["w"].reshape(-1)[:CHANNELS]
            nodes, names = [node("Relu", ["v"], ["b"], name="computed")], [*names, "b"]
        elif bias != "none":
            weights["b"], names = numbers(*BIASES[bias], seed=2) * 3, [*names, "b"]
        gemm = node("Gemm", names, ["y"], name="gemm", alpha=alpha, beta=beta, transA=trans_a, transB=trans_b)
        check(network([*nodes, gemm], weights, given), given, integer_biases=integer_biases)


def test_a_gemm_of_two_computed_matrices_keeps_its_results() -> None:
    given = {"x": numbers(DEPTH, DEPTH), "z": numbers(DEPTH, DEPTH, seed=1)}
    check(network([node("Gemm", ["x", "z"], ["y"], name="gemm", alpha=0.25)], {}, given), given)


def conv(given: str, weight: str, output: str, name: str) -> onnx.NodeProto:
    return node("Conv", [given, weight, "b"], [output], name=name, pads=[1, 1, 1, 1])


NAMES = ["b0", "b1", "x_scale", "x_zero_point", "x_QuantizeLinear_Output", "w1_quantized", "b_quantized", "w1_scale"]


@pytest.mark.parametrize("integer_biases", [False, True], ids=["float bias", "integer bias"])
@pytest.mark.parametrize("name", NAMES)
def test_convolutions_share_a_bias_whatever_other_tensors_are_called(name: str, integer_biases: bool) -> None:
    given = {"x": numbers(4, 3, 8, 8)}
    weights = {"w1": numbers(4, 3, 3, 3), "w2": numbers(4, 4, 3, 3, seed=1) * 0.2, "b": numbers(4, seed=2)}
    turned = node("Transpose", [name], ["t"], name="turn", perm=[0, 1, 3, 2])
    quantized = check(
        network([conv("x", "w1", name, "c1"), turned, conv("t", "w2", "y", "c2")], weights, given),
        given,
        integer_biases=integer_biases,
    )
    assert len([one for one in quantized.graph.node if one.op_type == "Conv"]) == 2


SHARED = [
    pytest.param([node("Gemm", ["x", "w"], ["h"], name="one"), node("Gemm", ["h", "w"], ["y"], name="two", transB=1)], id="axes"),
    pytest.param([node("MatMul", ["x", "w"], ["h"], name="one"), node("Add", ["h", "w"], ["y"], name="two")], id="operand"),
    pytest.param([node("MatMul", ["x", "w"], ["h"], name="one"), node("MatMul", ["w", "h"], ["y"], name="two")], id="places"),
    pytest.param([node("MatMul", ["x", "w"], ["h"], name="one"), node("MatMul", ["h", "w"], ["y"], name="two")], id="same use"),
    pytest.param(
        [
            node("Gather", ["w", "ids"], ["g"], name="embedding"),
            node("Add", ["g", "x"], ["h"], name="sum"),
            node("Gemm", ["h", "w"], ["y"], name="tied", transB=1),
        ],
        id="tied embedding",
    ),
]


@pytest.mark.parametrize("nodes", SHARED)
def test_a_shared_weight_keeps_its_results(nodes: list[onnx.NodeProto]) -> None:
    given = {"x": numbers(6, 6)}
    weights = {"w": numbers(6, 6, seed=1) * np.array([0.05, 0.5, 1, 1, 1, 2], F), "ids": np.array([0, 1, 2, 3, 4, 5])}
    check(network(nodes, weights, given), given)
