"""Half precision: equal labels, float32 inputs and outputs, and no number beyond its range."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.support.convert_networks import folder, noise
from tests.support.quantize_builds import build_without_weights, onnx_file, variant


def test_every_label_equals_the_float_models() -> None:
    measured = variant(Scheme.FP16).config.measured
    assert measured is not None
    assert measured.agreement == 1.0
    assert measured.max_relative_difference < 5e-3


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    ends = (*model.graph.input, *model.graph.output)
    return {end.name: end.type.tensor_type.elem_type for end in ends}


def test_inputs_and_outputs_stay_float32_and_softmax_too() -> None:
    model = onnx.load(variant(Scheme.FP16).file(LayerKind.GRAPH))
    assert kinds(model) == {"image": onnx.TensorProto.FLOAT, "classes": onnx.TensorProto.FLOAT}
    assert model.graph.node[-1].op_type == "Softmax"
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["stem/Conv/kernel/half"] == onnx.TensorProto.FLOAT16


def test_operators_compute_in_half_precision_if_no_label_changes(tmp_path: Path) -> None:
    made = halved([gemm("x", "sum")], {"sum/kernel": noise(4, 3), "sum/bias": noise(3)}, noise(8, 4), tmp_path)
    assert [node.op_type for node in made.graph.node] == ["Cast", "Gemm", "Cast"]


def test_the_last_operators_stay_float32_if_a_label_changes(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h"], name="first"), helper.make_node("MatMul", ["h", "close"], ["y"])]
    weights = {"first": np.eye(2), "close": np.diag([1.0, 1.0001])}  # halves to [1, 1]
    made = halved(nodes, weights, np.array([[1.0, 1.0], [1.0, 0.0]], np.float32), tmp_path)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types == {"first/half": onnx.TensorProto.FLOAT16, "close": onnx.TensorProto.FLOAT}


def gemm(given: str, name: str, wanted: str = "y") -> onnx.NodeProto:
    return helper.make_node("Gemm", [given, f"{name}/kernel", f"{name}/bias"], [wanted], name=name)


def halved(nodes: list[onnx.NodeProto], weights: dict[str, Any], samples: Any, folder: Path) -> onnx.ModelProto:
    write_npz(folder / "samples.npz", {"x": samples})
    outputs = next(reversed(weights.values())).shape[-1]
    source = onnx_file(folder / "m.onnx", nodes, weights, given=("x", ["N", samples.shape[1]]), wanted=("y", ["N", outputs]))
    build = convert_model(source, folder / "b", ConvertOptions(samples=folder / "samples.npz"))
    made = quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=folder / "samples.npz")).variant
    return onnx.load(made.file(LayerKind.GRAPH))


def test_weights_and_values_beyond_the_range_of_half_precision_stay_float32(tmp_path: Path) -> None:
    down = helper.make_node("Mul", ["h", "down"], ["d"], name="down")
    weights = {"large/kernel": np.eye(4) * 1e5, "large/bias": np.zeros(4), "down": np.array(1e-5)}
    small = {"small/kernel": noise(4, 3), "small/bias": np.zeros(3)}
    made = halved([gemm("x", "large", "h"), down, gemm("d", "small")], weights | small, noise(8, 4), tmp_path)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types["large/kernel"] == onnx.TensorProto.FLOAT
    assert types["small/kernel/half"] == onnx.TensorProto.FLOAT16


def test_a_model_without_operators_in_half_precision_is_refused() -> None:
    build = build_without_weights()
    with pytest.raises(ModelError) as raised:
        quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=folder() / "rows.npz"))
    assert str(raised.value) == f"{build.path}: fp16 needs operators that run in half precision, but the graph has ['CumSum']"
    assert [one.config.variant for one in build.variants()] == ["fp32"]


def test_a_search_for_labels_that_cannot_be_had_ends_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [("x", "close", "a"), ("a", "eye1", "b"), ("b", "eye2", "c"), ("c", "eye3", "y")]
    nodes = [helper.make_node("MatMul", [given, weight], [wanted], name=weight) for given, weight, wanted in steps]
    weights = {"close": np.diag([1.0, 1.0001]), **{name: np.eye(2) for name in ("eye1", "eye2", "eye3")}}
    monkeypatch.setattr(logging.getLogger("quantize.fp16"), "disabled", False)  # as after a configuration of all logging
    with caplog.at_level(logging.WARNING, logger="quantize.fp16"):
        made = halved(nodes, weights, np.array([[1.0, 1.0], [1.0, 0.0]], np.float32), tmp_path)
    assert {tensor.data_type for tensor in made.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert [record.message for record in caplog.records if record.name == "quantize.fp16"] == [
        "labels change with half of the operators in float32, too: all 4 operators are float16"
    ]


def body(nodes: list[onnx.NodeProto], given: str = "", wanted: str = "t") -> onnx.GraphProto:
    state = [
        helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
        helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
        helper.make_tensor_value_info(given, onnx.TensorProto.FLOAT, None),
    ]
    goes_on = [helper.make_tensor_value_info("went", onnx.TensorProto.BOOL, [])]
    result = helper.make_tensor_value_info(wanted, onnx.TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "b", state if given else [], [*(goes_on if given else []), result])


INNER = [
    pytest.param(
        [
            helper.make_node("Size", ["x"], ["size"]),
            helper.make_node("Cast", ["size"], ["filled"], to=onnx.TensorProto.BOOL),
            helper.make_node(
                "If",
                ["filled"],
                ["h"],
                then_branch=body([helper.make_node("MatMul", ["a", "w"], ["t"])]),
                else_branch=body([helper.make_node("Identity", ["a"], ["t"])]),
            ),
        ],
        id="If",
    ),
    pytest.param(
        [
            helper.make_node("Constant", [], ["count"], value_int=2),
            helper.make_node(
                "Loop",
                ["count", "", "a"],
                ["h"],
                body=body(
                    [helper.make_node("MatMul", ["s", "w"], ["t"]), helper.make_node("Identity", ["go"], ["went"])], given="s"
                ),
            ),
        ],
        id="Loop",
    ),
]


@pytest.mark.parametrize("inner", INNER)
def test_layers_after_a_body_that_computes_in_float32_are_float16(inner: list[onnx.NodeProto], tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a"]), *inner, helper.make_node("MatMul", ["h", "w1"], ["y"])]
    weights = {"w": noise(4, 4, seed=1), "w0": noise(4, 4, seed=2), "w1": noise(4, 3, seed=3)}
    made = halved(nodes, weights, noise(8, 4), tmp_path)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types["w0/half"] == types["w1/half"] == onnx.TensorProto.FLOAT16


def test_names_that_the_scheme_gives_may_exist_already(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["w/half"], name="x/to_half"),
        helper.make_node("Relu", ["w/half"], ["x/to_half"], name="y/to_float"),
        helper.make_node("MatMul", ["x/to_half", "v"], ["y"], name="m"),
    ]
    made = halved(nodes, {"w": noise(4, 4), "v": noise(4, 3, seed=1)}, noise(8, 4), tmp_path)
    assert [tensor.data_type for tensor in made.graph.initializer] == [onnx.TensorProto.FLOAT16] * 2
