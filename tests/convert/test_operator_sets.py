"""Graphs of other operator sets compute the same after their conversion, or are rejected with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from convert.operator_sets import at_supported_opset
from edgewright.errors import ModelError
from tests.support.convert_networks import noise
from tests.support.operator_attributes import generated_forms
from tests.support.operator_families import FAMILIES
from tests.support.operator_vectors import Form, are_equal, by_definition, forms, is_valid, outputs_of

FLOAT = onnx.TensorProto.FLOAT
OPSETS = range(7, 25)
NOT_CONVERTED = {
    "TensorScatter 24": "No Previous Version of TensorScatter exists",
    "Attention 23": "Type unknown for",
    "Attention 24": "Type unknown for",
    "Scan 8": "Scan of operator set 8 has a batch axis, which later sets lack",
}
"""Operators of which some vectors are rejected, and the reason; docs/reference/source-formats.md lists them."""


def misconverted(found: Iterator[Form]) -> Iterator[str]:
    """Yield the forms whose outputs change, or that are rejected for another reason than the known one."""
    for form in found:
        expected = outputs_of(form.model, form.inputs)
        try:
            actual = at_supported_opset(form.model, Path("m.onnx"))
        except ModelError as error:
            if NOT_CONVERTED.get(f"{form.operator} {form.opset}", "nothing") not in str(error):
                yield f"{form}: {error}"
            continue
        outputs = outputs_of(actual, form.inputs)
        if not are_equal(outputs, expected) and not are_equal(outputs, by_definition(form.model, form.inputs)):
            yield f"{form}: outputs differ"


@pytest.mark.filterwarnings("ignore")  # NumPy warns about vectors that overflow on purpose
@pytest.mark.slow
def test_every_version_of_every_operator_computes_the_same() -> None:
    assert list(misconverted(forms(OPSETS))) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_every_version_of_an_operator_computes_the_same_for_generated_attributes() -> None:
    found = [form for form in generated_forms(FAMILIES) if is_valid(form)]
    assert len(found) > 3000
    assert list(misconverted(iter(found))) == []


def model(nodes: list[onnx.NodeProto], opset: int, shape: list[int], **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", *[None] * len(shape)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def floats(*values: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32))


def resize(mode: str, scales: list[float], source: str = "x") -> list[onnx.NodeProto]:
    tensor = floats(1, 1, *scales)
    return [helper.make_node("Constant", [], ["s"], value=tensor), helper.make_node("Resize", [source, "s"], ["y"], mode=mode)]


def upsample(mode: str, scales: list[float]) -> list[onnx.NodeProto]:
    return [helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=[1.0, 1.0, *scales])]


def hardmax(axis: int) -> list[onnx.NodeProto]:
    return [helper.make_node("Hardmax", ["x"], ["y"], axis=axis)]


def dynamic(operator: str, mode: str, factor: float) -> list[onnx.NodeProto]:
    """Return a node whose scales are computed in the graph."""
    return [
        helper.make_node("Constant", [], ["f"], value=floats(1, 1, factor, 0.5 + factor / 2)),
        helper.make_node("Abs", ["f"], ["s"]),
        helper.make_node(operator, ["x", "s"], ["y"], mode=mode),
    ]


def padded(mode: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Pad", ["x"], ["y"], mode=mode, pads=[0, 0, 1, 2, 0, 0, 2, 1], value=1.5)]


IMAGE = [2, 5, 4]
OLD = [
    pytest.param(7, IMAGE, upsample("nearest", [1.5, 2.25]), id="Upsample 7 nearest by fractions"),
    pytest.param(7, IMAGE, upsample("linear", [2.0, 2.0]), id="Upsample 7 linear"),
    pytest.param(8, IMAGE, upsample("linear", [1.0, 1.7]), id="Upsample 8 linear by a fraction"),
    pytest.param(9, IMAGE, dynamic("Upsample", "nearest", 1.5), id="Upsample 9 by computed scales"),
    pytest.param(9, IMAGE, dynamic("Upsample", "linear", 1.5), id="Upsample 9 linear by computed scales"),
    pytest.param(10, IMAGE, resize("nearest", [1.5, 2.25]), id="Resize 10 enlarging"),
    pytest.param(10, IMAGE, resize("nearest", [0.6, 0.7]), id="Resize 10 reducing"),
    pytest.param(10, IMAGE, resize("nearest", [1.6, 0.7]), id="Resize 10 in both directions"),
    pytest.param(10, IMAGE, resize("linear", [2.0, 3.0]), id="Resize 10 linear enlarging"),
    pytest.param(10, IMAGE, resize("linear", [0.4, 0.5]), id="Resize 10 linear reducing"),
    pytest.param(10, IMAGE, dynamic("Resize", "nearest", 0.6), id="Resize 10 by computed scales, reducing"),
    pytest.param(10, IMAGE, dynamic("Resize", "nearest", 1.6), id="Resize 10 by computed scales, enlarging"),
    pytest.param(10, [2, 7], resize("nearest", [0.55]), id="Resize 10 of a row"),
    pytest.param(10, [2, 3, 4, 5], resize("nearest", [0.5, 1.5, 2.0]), id="Resize 10 of a volume"),
    *(pytest.param(opset, [3, 4], hardmax(axis), id=f"Hardmax {opset}, axis {axis}") for opset in (7, 12) for axis in (0, 1, 2)),
    pytest.param(11, [3, 4], hardmax(-2), id="Hardmax 11, axis -2"),
    pytest.param(12, IMAGE, [helper.make_node("Softmax", ["x"], ["y"], axis=2)], id="Softmax 12"),
    pytest.param(7, IMAGE, padded("reflect"), id="Pad 7, a mode without its value"),
    pytest.param(10, IMAGE, padded("constant"), id="Pad 10 by a value"),
    pytest.param(7, IMAGE, [helper.make_node("LogSoftmax", ["x"], ["y"], axis=1)], id="LogSoftmax 7"),
]


@pytest.mark.parametrize(("opset", "shape", "nodes"), OLD)
def test_an_operator_whose_definition_changed_computes_the_same(
    opset: int, shape: list[int], nodes: list[onnx.NodeProto]
) -> None:
    proto = model(nodes, opset, shape)
    given = {"x": noise(3, *shape)}
    expected = outputs_of(proto, given)
    assert are_equal(outputs_of(at_supported_opset(proto, Path("m.onnx")), given), expected)


WEIGHT = {"s": np.array([0.5, -2, 1, 3], np.float32)}
NEW = [
    pytest.param(23, [helper.make_node("RMSNormalization", ["x", "s"], ["y"])], WEIGHT, id="RMSNormalization by a weight"),
    pytest.param(
        23,
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Mul", ["s", "s"], ["t"]),
            helper.make_node("RMSNormalization", ["r", "t"], ["y"], epsilon=1e-3),
        ],
        WEIGHT,
        id="RMSNormalization of results",
    ),
    pytest.param(24, [helper.make_node("Swish", ["x"], ["y"])], {}, id="Swish with its default"),
    pytest.param(24, [helper.make_node("Swish", ["x"], ["y"], alpha=0.5)], {}, id="Swish with a factor"),
]


@pytest.mark.parametrize(("opset", "nodes", "constants"), NEW)
def test_an_operator_that_is_newer_computes_the_same(opset: int, nodes: list[onnx.NodeProto], constants: Any) -> None:
    proto = model(nodes, opset, [4], **constants)
    given = {"x": noise(3, 4)}
    expected = outputs_of(proto, given)
    assert are_equal(outputs_of(at_supported_opset(proto, Path("m.onnx")), given), expected)


def in_a_branch(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return an If node with `nodes` in both branches."""
    result = helper.make_tensor_value_info("y", FLOAT, ["N", None, None, None])
    branch = helper.make_graph(nodes, "branch", [], [result])
    condition = numpy_helper.from_array(np.array(True))
    return [
        helper.make_node("Constant", [], ["c"], value=condition),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]


@pytest.mark.parametrize(
    ("opset", "nodes"),
    [pytest.param(10, resize("nearest", [1.5, 0.5]), id="Resize 10"), pytest.param(11, hardmax(1), id="Hardmax 11")],
)
def test_an_operator_in_a_branch_computes_the_same(opset: int, nodes: list[onnx.NodeProto]) -> None:
    proto = model(in_a_branch(nodes), opset, IMAGE)
    given = {"x": noise(3, *IMAGE)}
    expected = outputs_of(proto, given)
    assert are_equal(outputs_of(at_supported_opset(proto, Path("m.onnx")), given), expected)


def test_a_function_of_the_model_is_converted_with_its_own_operator_set() -> None:
    function = helper.make_function(
        "local", "Widest", ["x"], ["y"], [helper.make_node("Hardmax", ["x"], ["y"], axis=1)], [helper.make_opsetid("", 12)]
    )
    proto = model([helper.make_node("Widest", ["x"], ["y"], domain="local")], 12, [3, 4])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.ir_version = 8
    given = {"x": noise(3, 3, 4)}
    expected = outputs_of(proto, given)
    converted = at_supported_opset(proto, Path("m.onnx"))
    assert not converted.functions
    assert are_equal(outputs_of(converted, given), expected)


@pytest.mark.parametrize("computed", [False, True], ids=["constant scale", "computed scale"])
def test_a_group_normalization_with_one_scale_per_group_computes_the_same(*, computed: bool) -> None:
    scale, bias = np.array([0.5, -2], np.float32), np.array([1, 3], np.float32)
    doubled = [helper.make_node("Neg", ["s"], ["t"])] if computed else []
    nodes = [*doubled, helper.make_node("GroupNormalization", ["x", "t" if computed else "s", "b"], ["y"], num_groups=2)]
    given = noise(3, 4, 5)
    converted = at_supported_opset(model(nodes, 18, [4, 5], s=-scale if computed else scale, b=bias), Path("m.onnx"))
    groups = given.astype(np.float64).reshape(3, 2, 10)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[:, None] + bias[:, None]).reshape(given.shape)
    np.testing.assert_allclose(outputs_of(converted, {"x": given})[0], expected, atol=1e-5)


def test_scan_of_operator_set_8_is_rejected() -> None:
    body = onnx.parser.parse_graph(
        "body (float[2] s, float[2] e) => (float[2] t, float[2] f) { t = Add (s, e) f = Identity (t) }"
    )
    scan = helper.make_node("Scan", ["", "x", "x"], ["z", "y"], num_scan_inputs=1, body=body)
    with pytest.raises(ModelError) as caught:
        at_supported_opset(model([scan], 8, [3, 2]), Path("m.onnx"))
    assert str(caught.value) == (
        "m.onnx cannot be converted from operator set 8 to 21, export it with opset 21: "
        "Scan of operator set 8 has a batch axis, which later sets lack"
    )
