"""An If with a constant condition becomes the branch that it takes; the others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from convert.passes.simplify import simplify

F = np.float32
X = np.random.default_rng(0).normal(size=(3, 4)).astype(F)
node = helper.make_node


def weight(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def branch(*nodes: onnx.NodeProto, gives: str = "r", weights: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(gives, TensorProto.FLOAT, None)], weights)


def choice(condition: str, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto, gives: str = "y") -> onnx.NodeProto:
    return node("If", [condition], [gives], name=f"if_{gives}", then_branch=then_branch, else_branch=else_branch)


DOUBLE = branch(node("MatMul", ["x", "w"], ["r"]), weights=(weight("w", 2 * np.eye(4, dtype=F)),))
HALF = branch(node("MatMul", ["x", "w"], ["r"]), weights=(weight("w", np.eye(4, dtype=F) / 2),))
OUTER = branch(node("Identity", ["x"], ["r"]))
COPIED = branch(*DOUBLE.node, node("Identity", ["r"], ["copy"]), gives="copy", weights=tuple(DOUBLE.initializer))
CONDITION = node("Equal", ["rate", "expected"], ["known"])
NESTED = branch(
    node("Constant", [], ["two"], value=weight("", np.array(2))),
    node("Equal", ["two", "rate"], ["inner"]),
    choice("inner", HALF, OUTER, gives="r"),
)
AFTER = node("Add", ["y1", "y2"], ["y"])


def graph_of(*nodes: onnx.NodeProto, rate: int = 16) -> onnx.ModelProto:
    constants = [weight("rate", np.array(rate)), weight("expected", np.array(16))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xy"]
    graph = helper.make_graph([CONDITION, *nodes], "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": X})[0]


@pytest.mark.parametrize("rate", [16, 8, 2])
@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param((choice("known", DOUBLE, HALF),), id="output of the graph"),
        pytest.param((choice("known", DOUBLE, OUTER),), id="outer value"),
        pytest.param((choice("known", COPIED, COPIED),), id="copy at the end"),
        pytest.param((choice("known", DOUBLE, NESTED),), id="nested"),
        pytest.param((choice("known", DOUBLE, HALF, "y1"), choice("known", HALF, OUTER, "y2"), AFTER), id="same names"),
    ],
)
def test_a_constant_condition_takes_its_branch(nodes: tuple[onnx.NodeProto, ...], rate: int, tmp_path: Path) -> None:
    source = graph_of(*nodes, rate=rate)
    expected = run(source)
    model = ir.from_proto(source)
    simplify(model, check_each=True)
    assert [one for one in model.graph if one.op_type == "If"] == []
    np.testing.assert_array_equal(run(ir.to_proto(model)), expected)


def test_a_condition_that_depends_on_the_input_stays() -> None:
    sign = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["positive"], to=TensorProto.BOOL)]
    model = ir.from_proto(graph_of(*sign, choice("positive", DOUBLE, HALF)))
    simplify(model, check_each=True)
    assert [one.op_type for one in model.graph].count("If") == 1
