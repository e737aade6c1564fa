"""Each pass on small graphs: the changes that it makes, and the nodes that it must keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from convert.passes.convolutions import fold_batch_norm
from convert.passes.simplify import simplify
from tests.support.convert_networks import noise, relative_difference, run_graph


def graph(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",), **constants: Any) -> ir.Model:
    """Return a model with one input x [N, 3, 6, 6]."""
    proto = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def operators(model: ir.Model) -> list[str]:
    return [one.op_type for one in model.graph]


def same_after(model: ir.Model, change: Any) -> ir.Model:
    batch = noise(2, 3, 6, 6)
    before = run_graph(model, batch)
    change(model)
    after = run_graph(model, batch)
    assert [relative_difference(one, other) < 1e-5 for one, other in zip(after, before, strict=True)] == [True] * len(before)
    return model


def norm_constants(size: int) -> dict[str, Any]:
    numbers = np.random.default_rng(1)
    names = ("gamma", "beta", "mean", "variance")
    return {name: (np.abs(numbers.normal(size=size)) + 0.5).astype(np.float32) for name in names}


NORM = "gamma beta mean variance"


def test_a_batch_norm_is_folded_into_a_convolution_without_a_bias() -> None:
    steps = [node("Conv", "x w", "c"), node("BatchNormalization", f"c {NORM}", "y", epsilon=0.1)]
    model = same_after(graph(steps, w=noise(4, 3, 3, 3), **norm_constants(4)), simplify)
    assert operators(model) == ["Conv"]


def test_a_batch_norm_is_folded_into_a_transposed_gemm() -> None:
    steps = [node("Flatten", "x", "f"), node("Gemm", "f w b", "g", transB=1), node("BatchNormalization", f"g {NORM}", "y")]
    model = same_after(graph(steps, w=noise(4, 108), b=noise(4), **norm_constants(4)), simplify)
    assert operators(model) == ["Flatten", "Gemm"]


def test_a_batch_norm_stays_if_its_input_has_another_consumer() -> None:
    steps = [node("Conv", "x w", "c"), node("BatchNormalization", f"c {NORM}", "n"), node("Add", "c n", "y")]
    model = same_after(graph(steps, w=noise(4, 3, 3, 3), **norm_constants(4)), fold_batch_norm)
    assert operators(model) == ["Conv", "BatchNormalization", "Add"]


def test_a_batch_norm_stays_if_its_input_is_a_graph_output() -> None:
    steps = [node("Conv", "x w", "c"), node("BatchNormalization", f"c {NORM}", "y")]
    model = same_after(graph(steps, ("y", "c"), w=noise(4, 3, 3, 3), **norm_constants(4)), fold_batch_norm)
    assert operators(model) == ["Conv", "BatchNormalization"]


def test_a_pad_of_zeros_is_folded_into_a_convolution() -> None:
    steps = [node("Pad", "x pads", "p"), node("Conv", "p w", "y", pads=[0, 1, 0, 0])]
    model = same_after(graph(steps, pads=np.array([0, 0, 1, 0, 0, 0, 2, 1]), w=noise(4, 3, 3, 3)), simplify)
    assert operators(model) == ["Conv"]
    assert model.graph[0].attributes["pads"].as_ints() == (1, 1, 2, 1)


def test_a_pad_of_ones_stays() -> None:
    steps = [node("Pad", "x pads one", "p"), node("Conv", "p w", "y")]
    model = graph(steps, pads=np.array([0, 0, 1, 0, 0, 0, 2, 1]), one=np.float32(1), w=noise(4, 3, 3, 3))
    assert operators(same_after(model, simplify)) == ["Pad", "Conv"]


def test_transposes_that_cancel_are_removed() -> None:
    steps = [
        node("Transpose", "x", "a", perm=[0, 2, 3, 1]),
        node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
        node("Relu", "b", "y"),
    ]
    assert operators(same_after(graph(steps), simplify)) == ["Relu"]


def test_transposes_that_cancel_at_an_output_keep_its_name() -> None:
    steps = [
        node("Relu", "x", "r"),
        node("Transpose", "r", "a", perm=[0, 2, 3, 1]),
        node("Transpose", "a", "y", perm=[0, 3, 1, 2]),
    ]
    model = same_after(graph(steps), simplify)
    assert operators(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_transposes_that_cancel_between_input_and_output_leave_one_node() -> None:
    steps = [node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Transpose", "a", "y", perm=[0, 3, 1, 2])]
    assert len(operators(same_after(graph(steps), simplify))) == 1


def test_transposes_in_a_row_are_merged() -> None:
    steps = [node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Transpose", "a", "y", perm=[0, 2, 1, 3])]
    assert operators(same_after(graph(steps), simplify)) == ["Transpose"]


def test_constant_nodes_are_computed() -> None:
    steps = [node("Add", "one two", "three"), node("Mul", "three two", "six"), node("Mul", "x six", "y")]
    model = same_after(graph(steps, one=np.float32(1), two=np.float32(2)), simplify)
    assert operators(model) == ["Mul"]


def test_quantizers_of_weights_are_not_computed() -> None:
    steps = [node("DequantizeLinear", "w scale", "d"), node("Mul", "x d", "y")]
    model = same_after(graph(steps, w=np.int8(3), scale=np.float32(0.5)), simplify)
    assert operators(model) == ["DequantizeLinear", "Mul"]


def test_unused_nodes_are_removed_with_their_weights() -> None:
    steps = [node("Relu", "x", "y"), node("Add", "x w", "unused")]
    model = same_after(graph(steps, w=np.float32(1)), simplify)
    assert operators(model) == ["Relu"]
    assert not model.graph.initializers


def test_identities_and_dropouts_are_removed_and_outputs_keep_their_names() -> None:
    steps = [node("Identity", "x", "a"), node("Dropout", "a", "b"), node("Relu", "b", "c"), node("Identity", "c", "y")]
    model = same_after(graph(steps), simplify)
    assert operators(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_a_dropout_stays_if_its_mask_is_used_or_in_training_mode() -> None:
    steps = [
        node("Dropout", "x", "a mask"),
        node("Where", "mask a x", "b"),
        node("Dropout", "b ratio training", "c"),
        node("Relu", "c", "y"),
    ]
    model = graph(steps, ratio=np.float32(0.0), training=np.bool_(True))
    assert operators(same_after(model, simplify)) == ["Dropout", "Where", "Dropout", "Relu"]


def test_every_node_has_a_name_after_simplification() -> None:
    model = graph([node("Relu", "x", "a"), node("Relu", "a", "y")])
    simplify(model)
    assert [one.name for one in model.graph] == ["Relu_0", "Relu_1"]


def test_simplify_reports_each_change_and_nothing_otherwise() -> None:
    steps = [node("Conv", "x w", "c"), node("BatchNormalization", f"c {NORM}", "y")]
    model = graph(steps, w=noise(4, 3, 3, 3), **norm_constants(4))
    assert "fold_batch_norm: folded 1 batch normalizations" in simplify(model)
    assert simplify(model) == []
