"""Weights of int8-dynamic: exact on every processor, close to the original."""

from __future__ import annotations

import numpy as np
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from quantize.dynamic.rounding import Rounded, round_without_saturation
from tests.support.convert_networks import noise

weights = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-(2.0**60), 2.0**60, width=32)
)


@given(weights)
def test_law_no_pair_of_products_leaves_sixteen_bits(weight: np.ndarray) -> None:
    elements = round_without_saturation(weight).elements.astype(np.int64)
    pairs = np.stack([elements[:-1], elements[1:]])
    assert (255 * np.maximum(pairs, 0).sum(axis=0) <= 32767).all()
    assert (255 * np.minimum(pairs, 0).sum(axis=0) >= -32768).all()


@given(weights)
def test_law_a_weight_is_off_by_at_most_half_a_step(weight: np.ndarray) -> None:
    rounded = round_without_saturation(weight)
    assert (np.abs(rounded.expanded() - weight) <= rounded.scales * 0.5001).all()


@given(weights)
def test_law_weights_of_any_magnitude_fit_into_a_byte(weight: np.ndarray) -> None:
    elements = np.rint(weight / round_without_saturation(weight).scales)
    assert (np.abs(elements) <= 127).all()


def test_an_isolated_large_weight_uses_all_eight_bits() -> None:
    weight = np.zeros((6, 1), np.float32)
    weight[::2] = [[2.0], [-1.0], [0.5]]
    assert round_without_saturation(weight).elements.ravel().tolist() == [127, 0, -64, 0, 32, 0]


def test_the_largest_activations_give_exact_sums_on_this_processor() -> None:
    rounded = round_without_saturation(np.abs(noise(64, 48, seed=3)))
    found = integer_product(np.full((5, 64), 255, np.uint8), rounded)
    assert (found == 255 * rounded.elements.astype(np.int64).sum(axis=0)).all()


def integer_product(activation: np.ndarray, rounded: Rounded) -> np.ndarray:
    """Multiply by onnxruntime's kernel."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", activation.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(rounded.elements, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": activation})
    return np.asarray(result)
