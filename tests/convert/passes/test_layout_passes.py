"""Passes that remove transposes and scales: the graph computes the same without them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from convert.passes.simplify import simplify
from tests.support.convert_networks import noise, relative_difference, run_graph


def graph(sizes: tuple[int, ...], nodes: list[onnx.NodeProto], **constants: Any) -> ir.Model:
    """Return a model from x [N, *sizes] to y."""
    ends = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *sizes]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    proto = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def simplified(model: ir.Model, *shape: int) -> list[str]:
    """Simplify a graph, check that it computes the same, and return its operators."""
    batch = noise(3, *shape)
    before = run_graph(model, batch)[0]
    simplify(model)
    assert relative_difference(run_graph(model, batch)[0], before) < 1e-5
    return [node.op_type for node in model.graph]


SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


@given(shape=SIZES, order=st.permutations([1, 2, 3]), width=st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_flattened_transposed_image_loses_its_transpose(shape: tuple[int, ...], order: list[int], width: int) -> None:
    rows = math.prod(shape)
    steps = [node("Transpose", "x", "t", perm=[0, *order]), node("Reshape", "t flat", "f"), node("MatMul", "f w", "y")]
    model = graph(shape, steps, flat=np.array([-1, rows]), w=noise(rows, width))
    assert simplified(model, *shape) == ["Flatten", "MatMul"]


@given(shape=SIZES, order=st.permutations([1, 2, 3]), axes=st.sets(st.integers(1, 3), min_size=2), keep=st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_reduction_of_a_transposed_image_computes_the_same(
    shape: tuple[int, ...], order: list[int], axes: set[int], keep: bool
) -> None:
    steps = [node("Transpose", "x", "t", perm=[0, *order]), node("ReduceMean", "t axes", "y", keepdims=int(keep))]
    model = graph(shape, steps, axes=np.array(sorted(axes)))
    assert ("Transpose" in simplified(model, *shape)) == keep


def test_a_reduction_to_another_axis_order_keeps_its_transpose() -> None:
    steps = [node("Transpose", "x", "t", perm=[0, 3, 2, 1]), node("ReduceMax", "t axes", "y", keepdims=0)]
    assert simplified(graph((2, 3, 4), steps, axes=np.array([3])), 2, 3, 4) == ["Transpose", "ReduceMax"]


def test_scaling_and_transposing_a_large_weight_is_folded_into_it() -> None:
    steps = [
        node("Mul", "w scale", "m"),
        node("Reshape", "m shape", "r"),
        node("Transpose", "r", "t", perm=[3, 2, 0, 1]),
        node("Conv", "x t", "y"),
    ]
    model = graph((128, 4, 4), steps, w=noise(9 * 128, 64), scale=noise(64), shape=np.array([3, 3, -1, 64]))
    assert simplified(model, 128, 4, 4) == ["Conv"]


@pytest.mark.parametrize("attributes", [{"transA": 1}, {"transB": 1}], ids=str)
def test_a_product_with_a_transposed_operand_is_unchanged(attributes: dict[str, int]) -> None:
    steps = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
        node("Reshape", "t flat", "f"),
        node("Gemm", "f w", "y", **attributes),
    ]
    width = 3 if "transA" in attributes else 8
    weight = noise(width, 2) if "transA" in attributes else noise(2, width)
    model = graph((2, 2, 2), steps, flat=np.array([-1, 8]), w=weight)
    assert "Transpose" in simplified(model, 2, 2, 2)


def test_a_partly_flattened_image_keeps_its_transpose() -> None:
    steps = [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Reshape", "t half", "f"), node("MatMul", "f w", "y")]
    model = graph((2, 2, 2), steps, half=np.array([-1, 4]), w=noise(4, 2))
    assert "Transpose" in simplified(model, 2, 2, 2)


@given(size=st.integers(1, 4), biased=st.booleans(), steps=st.lists(st.sampled_from(["Mul", "Add"]), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_channel_scales_and_shifts_are_folded_into_the_convolution(size: int, biased: bool, steps: list[str]) -> None:
    nodes = [node("Conv", "x w b" if biased else "x w", "v0")]
    nodes += [node(kind, f"c{place} v{place}", f"v{place + 1}") for place, kind in enumerate(steps)]
    numbers = {f"c{place}": noise(1, size, 1, 1, seed=place) for place in range(len(steps))}
    end = node("Relu", f"v{len(steps)}", "y")
    model = graph((3, 4, 4), [*nodes, end], w=noise(size, 3, 2, 2), b=noise(size), **numbers)
    assert simplified(model, 3, 4, 4) == ["Conv", "Relu"]


def test_a_scale_along_another_axis_is_not_folded() -> None:
    steps = [node("Conv", "x w", "c"), node("Mul", "c s", "m"), node("Relu", "m", "y")]
    model = graph((3, 4, 4), steps, w=noise(4, 3, 1, 1), s=noise(4))
    assert simplified(model, 3, 4, 4) == ["Conv", "Mul", "Relu"]


def test_a_convolution_with_another_consumer_keeps_its_weights() -> None:
    steps = [node("Conv", "x w", "c"), node("Mul", "c s", "m"), node("Add", "c m", "y")]
    model = graph((3, 4, 4), steps, w=noise(4, 3, 1, 1), s=noise(4, 1, 1))
    assert simplified(model, 3, 4, 4) == ["Conv", "Mul", "Add"]
