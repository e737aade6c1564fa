"""Automatic padding becomes numbers, which must be those of ONNX's definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from convert.passes.padding import write_padding
from edgewright.errors import ModelError
from tests.support.convert_networks import noise, relative_difference, run_graph

FLOAT = onnx.TensorProto.FLOAT


def window(operator: str, size: Any, **attributes: Any) -> onnx.ModelProto:
    """Return a model with one node on an image [N, 2, size, size], after a Relu whose shape the file does not have."""
    inputs = ["r", "w"] if operator == "Conv" else ["r"]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node(operator, inputs, ["y"], name="window", **attributes)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 2, size, size])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 2, None, None])],
        [numpy_helper.from_array(noise(2, 2, 3, 2), "w")] if operator == "Conv" else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


CASES = [
    pytest.param("Conv", "free", {"dilations": [2, 3]}, id="dilated at a dynamic size"),
    pytest.param("Conv", 7, {"dilations": [2, 3], "strides": [2, 2]}, id="dilated with a stride at a fixed size"),
    pytest.param("Conv", 7, {"strides": [3, 2]}, id="stride at a fixed size"),
    pytest.param("Conv", 7, {"strides": [5, 5]}, id="stride beyond the kernel"),
    pytest.param("MaxPool", "free", {"kernel_shape": [3, 2]}, id="max pool"),
    pytest.param("AveragePool", 7, {"kernel_shape": [3, 2], "strides": [2, 1]}, id="average pool"),
    pytest.param("AveragePool", 7, {"kernel_shape": [4, 3], "count_include_pad": 1}, id="average pool with padding"),
]


@pytest.mark.parametrize(("operator", "size", "attributes"), CASES)
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_is_written_as_numbers_is_that_of_the_definition(
    operator: str, size: Any, attributes: dict[str, Any], mode: str
) -> None:
    proto = window(operator, size, auto_pad=mode, **attributes)
    batch = noise(2, 2, 7, 7)
    expected: Any = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": batch})
    model = ir.from_proto(proto)
    assert write_padding(model) == "wrote the padding of 1 nodes as numbers"
    assert "auto_pad" not in list(model.graph)[-1].attributes
    assert relative_difference(run_graph(model, batch)[0], np.asarray(expected[0])) < 1e-6


def test_automatic_padding_stays_where_the_size_decides() -> None:
    model = ir.from_proto(window("Conv", "free", auto_pad="SAME_UPPER", strides=[2, 2]))
    assert write_padding(model) == ""


def test_a_dilated_window_with_a_stride_at_a_free_size_is_rejected() -> None:
    model = ir.from_proto(window("Conv", "free", auto_pad="SAME_UPPER", strides=[2, 2], dilations=[2, 2]))
    with pytest.raises(ModelError) as caught:
        write_padding(model)
    assert str(caught.value) == (
        "Conv 'window' has dilations, a stride and automatic padding, which onnxruntime runs for fixed sizes only: "
        "give each axis of the input its size with --shape"
    )
