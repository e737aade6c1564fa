"""Half precision keeps float32 where its numbers are too small, and writes valid graphs around operators with bodies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind, VariantDirectory
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.float_builds import float_build, float_model

F = np.float32
node = helper.make_node
rng = np.random.default_rng(0)
WEIGHT = rng.normal(size=(6, 6)).astype(F)
SAMPLES = rng.normal(size=(40, 6)).astype(F)

EPSILON, AXIS = {"e": F(1e-12)}, {"axis": np.array([1])}
NORM = node("ReduceL2", ["a", "axis"], ["n"])
SQUARES = [node("Mul", ["a", "a"], ["s"]), node("ReduceMean", ["s", "axis"], ["n"])]

GUARDS = [
    pytest.param([NORM, node("Clip", ["n", "e"], ["c"]), node("Div", ["a", "c"], ["y"])], EPSILON, id="clip"),
    pytest.param([NORM, node("Max", ["n", "e"], ["c"]), node("Div", ["a", "c"], ["y"])], EPSILON, id="max"),
    pytest.param([NORM, node("Add", ["e", "n"], ["c"]), node("Div", ["a", "c"], ["y"])], EPSILON, id="add"),
    pytest.param(
        [*SQUARES, node("Add", ["n", "e"], ["c"]), node("Sqrt", ["c"], ["r"]), node("Div", ["a", "r"], ["y"])],
        EPSILON,
        id="square root",
    ),
    pytest.param(
        [
            *SQUARES,
            node("Add", ["n", "e"], ["c"]),
            node("Sqrt", ["c"], ["r"]),
            node("Reciprocal", ["r"], ["i"]),
            node("Mul", ["a", "i"], ["y"]),
        ],
        EPSILON,
        id="reciprocal",
    ),
    pytest.param(
        [NORM, node("Clip", ["n", "e"], ["c"]), node("Expand", ["c", "shape"], ["wide"]), node("Div", ["a", "wide"], ["y"])],
        EPSILON | {"shape": np.array([1, 6])},
        id="expanded",
    ),
    pytest.param(
        [NORM, node("Add", ["n", "e"], ["c"]), node("Div", ["one", "c"], ["i"]), node("Mul", ["i", "a"], ["y"])],
        EPSILON | {"one": F(1)},
        id="one over",
    ),
    pytest.param(
        [
            NORM,
            node("Equal", ["n", "zero"], ["empty"]),
            node("Where", ["empty", "e", "n"], ["c"]),
            node("Div", ["a", "c"], ["y"]),
        ],
        EPSILON | {"zero": F(0)},
        id="where",
    ),
    pytest.param([node("Abs", ["a"], ["n"]), node("Add", ["n", "e"], ["c"]), node("Log", ["c"], ["y"])], EPSILON, id="logarithm"),
    pytest.param(
        [NORM, node("Max", ["n", "e"], ["c"]), node("Div", ["a", "c"], ["y"])], {"e": np.full((1, 1), 3e-8, F)}, id="subnormal"
    ),
    pytest.param(
        [node("Mul", ["a", "e"], ["c"]), node("Div", ["c", "d"], ["y"])],
        {"e": np.array([1, 1, 1, 1, 1, 1e-9], F), "d": np.array([1, 1, 1, 1, 1, 1e-9], F)},
        id="one channel",
    ),
]


def half_variant(folder: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, Any]) -> VariantDirectory:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.asarray(numbers), name) for name, numbers in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "m.onnx")
    write_npz(folder / "x.npz", {"x": SAMPLES})
    build = convert_model(folder / "m.onnx", folder / "b", ConvertOptions(samples=folder / "x.npz"))
    return quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=folder / "x.npz")).variant


def run(path: Path, rows: Any) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


@pytest.mark.parametrize(("nodes", "constants"), GUARDS)
def test_rows_of_zeros_give_what_float32_gives(nodes: list[onnx.NodeProto], constants: dict[str, Any], tmp_path: Path) -> None:
    weights = {"w": np.eye(6, dtype=F) + F(0.1), "shift": F(1)} | AXIS | constants
    features = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "shift"], ["q"]), node("Relu", ["q"], ["a"])]
    made = half_variant(tmp_path, [*features, *nodes], weights)
    rows = np.concatenate([SAMPLES[:3], np.zeros((1, 6), F), np.full((1, 6), -5, F)])  # the last row of `a` is zero
    np.testing.assert_allclose(run(made.file(LayerKind.GRAPH), rows), run(tmp_path / "m.onnx", rows), rtol=1e-2, atol=1e-2)
    assert weight_types(made)["w/half"] == TensorProto.FLOAT16


def weight_types(made: VariantDirectory) -> dict[str, int]:
    return {one.name: one.data_type for one in onnx.load(made.file(LayerKind.GRAPH), load_external_data=False).graph.initializer}


def test_a_few_small_weights_beside_larger_ones_do_not_keep_a_matrix_in_float32(tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[0, :3] = 1e-9
    made = half_variant(tmp_path, [node("MatMul", ["x", "w"], ["y"])], {"w": weight})
    assert weight_types(made) == {"w/half": TensorProto.FLOAT16}


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(name: str, *nodes: onnx.NodeProto, gives: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [value(gives)])


def loop_body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    given = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("h")]
    return helper.make_graph(
        [*nodes, node("Identity", ["go"], ["more"])], "body", given, [value("more", TensorProto.BOOL), value("h2")]
    )


def steps(name: str) -> onnx.NodeProto:
    body = loop_body(node("MatMul", ["h", "w"], ["hm"]), node("Add", ["hm", name], ["ha"]), node("Tanh", ["ha"], ["h2"]))
    return node("Loop", ["three", "", "a"], ["y"], body=body, name="loop")


CHOICE = node(
    "If",
    ["positive"],
    ["y"],
    name="choice",
    then_branch=branch("then", node("Mul", ["a", "a"], ["t"]), gives="t"),
    else_branch=branch("else", node("MatMul", ["a", "w"], ["e"]), gives="e"),
)
NESTED = node(
    "Loop",
    ["three", "", "a"],
    ["y"],
    name="loop",
    body=loop_body(
        node(
            "If",
            ["positive"],
            ["h2"],
            then_branch=branch("then", node("Sub", ["h", "a"], ["t"]), gives="t"),
            else_branch=branch("else", node("MatMul", ["h", "w"], ["e"]), gives="e"),
        )
    ),
)
SCAN = node(
    "Scan",
    ["start", "a"],
    ["last", "y"],
    num_scan_inputs=1,
    name="scan",
    body=helper.make_graph(
        [node("Add", ["h", "r"], ["h2"]), node("Mul", ["h2", "scale"], ["row"])],
        "body",
        [value("h", TensorProto.FLOAT, [6]), value("r", TensorProto.FLOAT, [6])],
        [value("h2", TensorProto.FLOAT, [6]), value("row", TensorProto.FLOAT, [6])],
    ),
)
SHAPE = node("Shape", ["a"], ["s"])
CONTROL = [
    pytest.param(
        [
            SHAPE,
            node("ConstantOfShape", ["s"], ["o"], value=numpy_helper.from_array(np.array([0.5], F))),
            node("Add", ["a", "o"], ["y"]),
        ],
        id="constant of shape",
    ),
    pytest.param([SHAPE, node("ConstantOfShape", ["s"], ["o"]), node("Sub", ["a", "o"], ["y"])], id="default constant of shape"),
    pytest.param([node("EyeLike", ["a"], ["o"]), node("Add", ["a", "o"], ["y"])], id="eye like"),
    pytest.param([node("EyeLike", ["a"], ["o"], dtype=1), node("Add", ["a", "o"], ["y"])], id="eye like with a type"),
    pytest.param([node("CastLike", ["a", "scale"], ["c"]), node("Neg", ["c"], ["y"])], id="cast like"),
    pytest.param([CHOICE], id="if"),
    pytest.param([steps("scale")], id="loop"),
    pytest.param([steps("a")], id="loop that reads an outer value"),
    pytest.param([NESTED], id="if inside of a loop"),
    pytest.param([SCAN], id="scan"),
]


@pytest.mark.parametrize("nodes", CONTROL)
def test_operators_with_bodies_or_own_types_give_a_valid_graph(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    constants = {"w": WEIGHT, "scale": F(0.5), "three": np.array(3), "start": np.zeros(6, F), "positive": np.array(False)}
    made = half_variant(tmp_path, [node("MatMul", ["x", "w"], ["m"]), node("Sigmoid", ["m"], ["a"]), *nodes], constants)
    onnx.checker.check_model(made.file(LayerKind.GRAPH))
    np.testing.assert_allclose(run(made.file(LayerKind.GRAPH), SAMPLES), run(tmp_path / "m.onnx", SAMPLES), atol=2e-2)
    assert weight_types(made)["w/half"] == TensorProto.FLOAT16


def test_weights_that_only_a_body_reads_are_stored_in_half_precision(tmp_path: Path) -> None:
    loop = node("Loop", ["three", "", "x"], ["y"], body=loop_body(node("MatMul", ["h", "w"], ["m"]), node("Tanh", ["m"], ["h2"])))
    made = half_variant(tmp_path, [loop], {"w": WEIGHT, "three": np.array(3)})
    assert weight_types(made)["w/half"] == TensorProto.FLOAT16
    np.testing.assert_allclose(run(made.file(LayerKind.GRAPH), SAMPLES), run(tmp_path / "m.onnx", SAMPLES), atol=2e-2)


@pytest.mark.parametrize("operator", ["ScatterND", "ScatterElements"])
def test_a_scatter_that_adds_stays_in_float32(operator: str, tmp_path: Path) -> None:
    indices = np.zeros((6, 1), np.int64) if operator == "ScatterND" else np.zeros((6, 6), np.int64)
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node(operator, ["t", "i", "w"], ["s"], name="sums", reduction="add"),
        node("MatMul", ["a", "s"], ["y"], name="last"),
    ]
    model = float_model(nodes, {"w": WEIGHT, "t": WEIGHT, "i": indices}, SAMPLES)
    write_npz(tmp_path / "samples.npz", {"x": SAMPLES})
    build = float_build(tmp_path / "build", model, SAMPLES)
    made = quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=tmp_path / "samples.npz"))
    assert made.evaluation.max_relative_difference < 0.01
