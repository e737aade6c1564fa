"""Names that tf2onnx counts are the same in every conversion."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convert.from_tensorflow.names import count_again
from convert.from_tensorflow.reader import read_tensorflow
from convert.source.identify import SourceKind
from convert.source.resource_limits import Limits
from tests.convert.from_tensorflow.test_from_tensorflow import saved_model


def counted(first: int, second: int, third: int, *, swapped: bool = False) -> onnx.ModelProto:
    """Return a graph with three numbers of tf2onnx's counter."""
    scale, shift = f"const_fold_opt__{first}", f"const_fold_opt__{second}"
    product = f"Mul__{third}"
    nodes = [
        helper.make_node("Mul", ["x__9", scale], [f"{product}:0"], name=product),
        helper.make_node("Add", [f"{product}:0", shift], ["y__9"], name="model/dense__2/Add"),
    ]
    weights = [numpy_helper.from_array(np.full(2, value, np.float32), name) for name, value in ((scale, 2), (shift, 3))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x__9", "y__9")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights[::-1] if swapped else weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_other_numbers_and_another_order_of_constants_give_the_same_bytes() -> None:
    one, other = counted(57, 31, 102), counted(8, 90, 7, swapped=True)
    count_again(one)
    count_again(other)
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_a_number_that_is_taken_swaps_without_a_collision() -> None:
    graph = counted(1, 0, 2)
    count_again(graph)
    onnx.checker.check_model(graph, full_check=True)
    assert [node.name for node in graph.graph.node] == ["Mul__0", "model/dense__2/Add"]
    assert sorted(tensor.name for tensor in graph.graph.initializer) == ["const_fold_opt__1", "const_fold_opt__2"]
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["x__9", "y__9"]


@pytest.mark.filterwarnings("ignore")
def test_two_conversions_of_a_saved_model_are_the_same() -> None:
    limits = Limits(memory_bytes=6_000_000_000, time_s=250)
    first, second = (read_tensorflow(SourceKind.SAVED_MODEL, saved_model(), limits) for _ in range(2))
    assert [node.name for node in first.graph] == [node.name for node in second.graph]
    assert list(first.graph.initializers) == list(second.graph.initializers)
    for name, value in first.graph.initializers.items():
        assert value.const_value is not None
        assert second.graph.initializers[name].const_value.tobytes() == value.const_value.tobytes()
