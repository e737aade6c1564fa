"""int8 keeps what 256 steps cannot hold in float: masks, written-out normalizations, joined outputs; layers stay integers."""

from __future__ import annotations

from collections.abc import Sequence
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
from quantize.int8.qdq import QdqFormat, quantized_graph

F = np.float32
INFINITY = np.array(-np.inf, F)
rng = np.random.default_rng(0)


def named(operator: str, given: Sequence[str], *wanted: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(given), list(wanted), name=f"{operator}_{wanted[0]}", **attributes)


def sqnr_db(nodes: Sequence[onnx.NodeProto], weights: dict[str, Any], rows: Any, channels: slice = slice(None)) -> float:
    """Return the SQNR at the output of the int8 graph, of `channels` of its second axis; every layer must be integer."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *rows.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    ranges = tensor_ranges(ObservedGraph(model), Samples({"x": rows}))
    quantized = quantized_graph(model, ranges, form=QdqFormat(types=Int8Types.U8S7))
    assert sum(f"{name}_quantized" in {one.name for one in quantized.graph.initializer} for name in ("w", "v")) == 2
    exact, actual = run(model, rows)[:, channels], run(quantized, rows)[:, channels]
    return float(10 * np.log10(np.mean(exact**2) / np.mean((exact - actual) ** 2)))


def run(model: onnx.ModelProto, rows: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


STEPS, WIDTH = 6, 16
SEEN = np.tril(np.ones((STEPS, STEPS), bool))
QUERIES = [
    named("MatMul", ["x", "w"], "q"),
    named("Transpose", ["x"], "k", perm=[0, 2, 1]),
    named("MatMul", ["q", "k"], "s"),
]
AFTER = [named("Softmax", ["m"], "p", axis=-1), named("MatMul", ["p", "x"], "c"), named("MatMul", ["c", "v"], "y")]
MASKS = [
    pytest.param([named("Add", ["s", "mask"], "m")], {"mask": np.where(SEEN, 0, -1e9).astype(F)}, id="-1e9"),
    pytest.param([named("Add", ["s", "mask"], "m")], {"mask": np.where(SEEN, 0, -100).astype(F)}, id="-100"),
    pytest.param([named("Add", ["s", "mask"], "m")], {"mask": np.where(SEEN, 0, -np.inf).astype(F)}, id="-inf"),
    pytest.param([named("Where", ["seen", "s", "low"], "m")], {"seen": SEEN, "low": INFINITY}, id="where"),
    pytest.param(
        [named("Sub", ["one", "seen"], "h"), named("Mul", ["h", "low"], "a"), named("Add", ["s", "a"], "m")],
        {"seen": SEEN.astype(F), "one": F(1), "low": F(-10000)},
        id="computed",
    ),
    pytest.param(
        [named("Mul", ["s", "half"], "h"), named("Add", ["h", "mask"], "a"), named("Identity", ["a"], "m")],
        {"half": F(0.5), "mask": np.where(SEEN, 0, np.finfo(F).min).astype(F)},
        id="smallest number",
    ),
]


@pytest.mark.parametrize(("mask", "constants"), MASKS)
def test_masked_attention_keeps_its_scores(mask: list[onnx.NodeProto], constants: dict[str, Any]) -> None:
    weights = {"w": rng.normal(size=(WIDTH, WIDTH)).astype(F) / 8, "v": rng.normal(size=(WIDTH, WIDTH)).astype(F) / 4}
    assert sqnr_db([*QUERIES, *mask, *AFTER], weights | constants, rng.normal(size=(64, STEPS, WIDTH)).astype(F)) > 25


def test_a_masked_maximum_keeps_its_values() -> None:
    nodes = [
        named("MatMul", ["x", "w"], "q"),
        named("Where", ["seen", "q", "low"], "m"),
        named("ReduceMax", ["m"], "p", axes=[1], keepdims=0),
        named("MatMul", ["p", "v"], "y"),
    ]
    weights = {"w": rng.normal(size=(WIDTH, WIDTH)).astype(F), "v": rng.normal(size=(WIDTH, 4)).astype(F)}
    constants = {"seen": np.array([[True]] * 4 + [[False]] * 2), "low": F(-1e9)}
    assert sqnr_db(nodes, weights | constants, rng.normal(size=(64, STEPS, WIDTH)).astype(F)) > 25


SQUARES = [named("Mul", ["a", "a"], "b"), named("ReduceMean", ["b"], "r", axes=[1], keepdims=1), named("Add", ["r", "e"], "re")]
CENTERED = [
    named("ReduceMean", ["a"], "mean", axes=[1], keepdims=1),
    named("Sub", ["a", "mean"], "d"),
    named("Pow", ["d", "two"], "b"),
    named("ReduceMean", ["b"], "r", axes=[1], keepdims=1),
    named("Add", ["r", "e"], "re"),
    named("Sqrt", ["re"], "sq"),
]
NORMALIZATIONS = [
    pytest.param([*SQUARES, named("Sqrt", ["re"], "sq"), named("Div", ["a", "sq"], "n")], id="root mean square"),
    pytest.param(
        [*SQUARES, named("Sqrt", ["re"], "sq"), named("Reciprocal", ["sq"], "i"), named("Mul", ["a", "i"], "n")], id="reciprocal"
    ),
    pytest.param(
        [*SQUARES, named("Sqrt", ["re"], "sq"), named("Div", ["one", "sq"], "i"), named("Mul", ["i", "a"], "n")], id="one over"
    ),
    pytest.param([*SQUARES, named("Pow", ["re", "minus"], "i"), named("Mul", ["a", "i"], "n")], id="power"),
    pytest.param([*CENTERED, named("Div", ["d", "sq"], "n")], id="layer normalization"),
    pytest.param(
        [
            *CENTERED,
            named("Reciprocal", ["sq"], "i"),
            named("Mul", ["i", "gamma"], "g"),
            named("Mul", ["a", "g"], "ag"),
            named("Mul", ["mean", "g"], "mg"),
            named("Sub", ["ag", "mg"], "n"),
        ],
        id="scaled reciprocal",
    ),
    pytest.param(
        [
            named("ReduceL2", ["a"], "l", axes=[1], keepdims=1),
            named("Clip", ["l", "e"], "c"),
            named("Expand", ["c", "shape"], "w2"),
            named("Div", ["a", "w2"], "n"),
        ],
        id="unit length",
    ),
]


@pytest.mark.parametrize("nodes", NORMALIZATIONS)
def test_written_out_normalizations_keep_their_divisors(nodes: list[onnx.NodeProto]) -> None:
    rows = rng.normal(size=(64, WIDTH)).astype(F) * np.geomspace(0.02, 4, 64).astype(F)[:, None]
    weights = {"w": rng.normal(size=(WIDTH, WIDTH)).astype(F), "v": rng.normal(size=(WIDTH, 4)).astype(F)}
    constants = {"e": F(1e-6), "two": F(2), "one": F(1), "minus": F(-0.5), "gamma": F(1.5), "shape": np.array([1, WIDTH])}
    used = {name for node in nodes for name in node.input}
    layers = [named("MatMul", ["x", "w"], "a"), *nodes, named("MatMul", ["n", "v"], "y")]
    assert np.isfinite(sqnr_db(layers, weights | {k: v for k, v in constants.items() if k in used}, rows))
    assert sqnr_db(layers, weights | {k: v for k, v in constants.items() if k in used}, rows[32:]) > 20


def test_a_logarithm_keeps_the_small_values_of_probabilities() -> None:
    nodes = [
        named("MatMul", ["x", "w"], "a"),
        named("Sigmoid", ["a"], "s"),
        named("Clip", ["s", "least"], "c"),
        named("Log", ["c"], "l"),
        named("MatMul", ["l", "v"], "y"),
    ]
    weights = {"w": rng.normal(size=(WIDTH, WIDTH)).astype(F), "v": rng.normal(size=(WIDTH, 4)).astype(F), "least": F(1e-12)}
    assert sqnr_db(nodes, weights, rng.normal(size=(64, WIDTH)).astype(F)) > 25


ENDS = [
    pytest.param([named("Concat", ["boxes", "p"], "y", axis=1)], id="concat"),
    pytest.param([named("Concat", ["p", "boxes"], "j", axis=1), named("Relu", ["j"], "y")], id="followed"),
    pytest.param(
        [named("Concat", ["boxes", "p"], "j", axis=1), named("Reshape", ["j", "shape"], "y")], id="reshaped"
    ),
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_scores_beside_boxes_keep_their_values(end: list[onnx.NodeProto]) -> None:
    nodes = [
        named("Conv", ["x", "w"], "b"),
        named("Softplus", ["b"], "bs"),
        named("Mul", ["bs", "k"], "boxes"),
        named("Conv", ["x", "v"], "l"),
        named("Sigmoid", ["l"], "p"),
    ]
    weights = {"w": rng.normal(size=(4, 3, 1, 1)).astype(F), "v": rng.normal(size=(4, 3, 1, 1)).astype(F), "k": F(320)}
    shape = {"shape": np.array([0, 8, -1])} if "shape" in end[-1].input else {}
    scores = slice(0, 4) if end[0].input[0] == "p" else slice(4, 8)
    assert sqnr_db([*nodes, *end], weights | shape, rng.normal(size=(16, 3, 6, 6)).astype(F), scores) > 25


@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_channels_that_a_constant_scales_differently_keep_their_values(operator: str) -> None:
    factors = np.array([640, 640, 0.01, 0.01], F).reshape(4, 1, 1)
    nodes = [
        named("Conv", ["x", "w"], "c"),
        named("Relu", ["c"], "r"),
        named("Conv", ["r", "v"], "b"),
        named(operator, ["b", "factors"], "y"),
    ]
    weights = {"w": rng.normal(size=(4, 3, 1, 1)).astype(F), "v": rng.normal(size=(4, 4, 1, 1)).astype(F), "factors": factors}
    small = slice(2, 4) if operator == "Mul" else slice(0, 2)
    assert sqnr_db(nodes, weights, rng.normal(size=(16, 3, 6, 6)).astype(F), small) > 25


LAST_LAYERS = [
    pytest.param([named("Conv", ["s", "u", "ub"], "y")], (4, 4, 1, 1), id="Conv"),
    pytest.param(
        [named("GlobalAveragePool", ["s"], "g"), named("Flatten", ["g"], "f"), named("Gemm", ["f", "u", "ub"], "y", transB=1)],
        (4, 4),
        id="Gemm",
    ),
]


@pytest.mark.parametrize(("last", "shape"), LAST_LAYERS)
def test_a_last_layer_whose_weights_differ_by_channel_keeps_its_small_channels(
    last: list[onnx.NodeProto], shape: tuple[int, ...]
) -> None:
    factors = np.array([300, 300, 0.01, 0.01], F)
    nodes = [
        named("Conv", ["x", "w"], "c"),
        named("Relu", ["c"], "r"),
        named("Conv", ["r", "v"], "b"),
        named("Relu", ["b"], "s"),
        *last,
    ]
    weights = {"w": rng.normal(size=(4, 3, 1, 1)).astype(F), "v": rng.normal(size=(4, 4, 1, 1)).astype(F)}
    weights["u"] = rng.normal(size=shape).astype(F) * factors.reshape(4, *[1] * (len(shape) - 1))
    weights["ub"] = rng.normal(size=4).astype(F) * factors
    assert sqnr_db(nodes, weights, rng.normal(size=(16, 3, 6, 6)).astype(F), slice(2, 4)) > 25


def test_a_layer_normalization_over_three_axes_stays_float() -> None:
    nodes = [
        named("Conv", ["x", "w"], "c"),
        named("LayerNormalization", ["c", "scale", "bias"], "n", axis=1),
        named("Conv", ["n", "v"], "y"),
    ]
    weights = {"w": rng.normal(size=(4, 3, 1, 1)).astype(F), "v": rng.normal(size=(4, 4, 1, 1)).astype(F)}
    affine = {"scale": np.ones((4, 6, 6), F), "bias": np.zeros((4, 6, 6), F)}
    assert sqnr_db(nodes, weights | affine, rng.normal(size=(16, 3, 6, 6)).astype(F)) > 25


def test_a_transposed_convolution_before_a_batch_normalization_is_quantized() -> None:
    nodes = [
        named("ConvTranspose", ["x", "w"], "c", strides=[2, 2]),
        named("BatchNormalization", ["c", "scale", "bias", "mean", "var"], "n"),
        named("Conv", ["n", "v"], "y"),
    ]
    weights = {"w": rng.normal(size=(3, 4, 2, 2)).astype(F), "v": rng.normal(size=(4, 4, 1, 1)).astype(F)}
    affine = {"scale": np.ones(4, F), "bias": np.zeros(4, F), "mean": np.zeros(4, F), "var": np.ones(4, F)}
    assert sqnr_db(nodes, weights | affine, rng.normal(size=(16, 3, 6, 6)).astype(F)) > 25
