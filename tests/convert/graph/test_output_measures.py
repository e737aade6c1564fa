"""The conversion records how each output is compared, as far as the graph shows it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from convert.graph.outputs import with_measures
from edgewright.contracts.variant import Measure, TensorSpec

NODE = helper.make_node
INTS, BOOLS, BYTES, FLOATS = TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8, TensorProto.FLOAT
CONSTANTS = {
    "one": np.array([1]),
    "flat": np.array([-1, 4]),
    "scale": np.array(0.1, np.float32),
    "point": np.array(128, np.uint8),
}
QUANTIZED = NODE("QuantizeLinear", ["x", "scale", "point"], ["q"])
CAST = NODE("Cast", ["x"], ["c"], to=INTS)


@pytest.mark.parametrize(
    ("nodes", "dtype", "measure"),
    [
        pytest.param([NODE("Identity", ["i"], ["y"])], INTS, Measure.COPY, id="an input"),
        pytest.param([NODE("Identity", ["x"], ["y"])], FLOATS, Measure.COPY, id="an input of floats"),
        pytest.param([NODE("Add", ["i", "one"], ["y"])], INTS, Measure.EXACT, id="integers of integers"),
        pytest.param([NODE("Equal", ["i", "one"], ["y"])], BOOLS, Measure.EXACT, id="booleans of integers"),
        pytest.param([NODE("ArgMax", ["x"], ["y"], axis=1)], INTS, "", id="classes of scores"),
        pytest.param([NODE("Greater", ["x", "scale"], ["y"])], BOOLS, "", id="booleans of floats"),
        pytest.param([QUANTIZED, NODE("Identity", ["q"], ["y"])], BYTES, Measure.VALUES, id="quantized"),
        pytest.param([QUANTIZED, NODE("Reshape", ["q", "flat"], ["y"])], BYTES, Measure.VALUES, id="quantized, reshaped"),
        pytest.param([QUANTIZED, NODE("ArgMax", ["q"], ["y"], axis=1)], INTS, "", id="classes of quantized"),
        pytest.param([CAST, NODE("Identity", ["c"], ["y"])], INTS, "", id="cast to integers"),
        pytest.param([NODE("Exp", ["x"], ["y"])], FLOATS, "", id="floats"),
    ],
)
def test_the_measure_follows_from_the_graph(nodes: list[NodeProto], dtype: int, measure: str) -> None:
    inputs = [helper.make_tensor_value_info(name, kind, ["N", 4]) for name, kind in (("i", INTS), ("x", FLOATS))]
    weights = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", dtype, ["N", None])], weights)
    proto = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    recorded = TensorSpec(name="y", dtype="float32" if dtype == FLOATS else "int64", shape=("N", 4))
    (spec,) = with_measures(ir.from_proto(proto).graph, [recorded], "")
    assert spec.measure == measure
