"""The cut of a graph, and the two parts in sequence."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.utils
import onnx_ir as ir
import onnxruntime
import pytest

from convert.split import AUTO, SupportedOperators, split
from edgewright.contracts.build_directory import Cut
from edgewright.errors import NotFoundError
from edgewright.graphs.parts import parts_of
from tests.support.convert_networks import converted, digits, keras, relative_difference, run_graph, trained


def test_auto_cuts_after_the_last_pooling_and_its_flatten() -> None:
    cut, _ = split(converted(trained()), AUTO)
    assert cut == Cut(tensors=("flatten/Flatten",), featurizer_nodes=8, head_nodes=4)


@pytest.mark.parametrize("where", [AUTO, "classes", "hidden/Relu", "join", "stem"])
def test_featurizer_and_head_in_sequence_compute_the_whole_graph(where: str) -> None:
    graph = converted(trained())
    cut, _ = split(graph, where)
    images = digits()[0][:20]
    proto = ir.to_proto(graph)
    extractor = onnx.utils.Extractor(proto)
    featurizer = extractor.extract_model(["image"], list(cut.tensors))
    head = extractor.extract_model(list(cut.tensors), ["classes"])
    between = _run(featurizer, {"image": images})
    together = _run(head, dict(zip(cut.tensors, between, strict=True)))
    assert relative_difference(together[0], run_graph(graph, images)[0]) < 1e-6


def _run(model: onnx.ModelProto, inputs: dict[str, Any]) -> list[Any]:
    outputs: list[Any] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    return outputs


def test_the_parts_are_restored_from_the_tensors_of_a_cut() -> None:
    graph = converted(trained())
    cut, parts = split(graph, "hidden")
    assert parts_of(graph, cut) == parts


def test_a_branch_around_the_named_layer_adds_a_tensor_to_the_cut() -> None:
    cut, _ = split(converted(trained()), "join")
    assert cut.tensors == ("stem_relu/Relu", "block_relu/Relu")


def test_a_model_without_images_is_all_head() -> None:
    given = keras().Input((4,), name="row")
    cut, parts = split(converted(keras().Model(given, keras().layers.Dense(2)(given))), AUTO)
    assert cut == Cut(tensors=("row",), featurizer_nodes=0, head_nodes=1)
    assert not parts.featurizer


def test_a_gate_inside_the_featurizer_belongs_to_the_featurizer() -> None:
    layers = keras().layers
    given = keras().Input((6, 6, 4))
    x = layers.Conv2D(4, 3, name="first")(given)
    gate = layers.Dense(4, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D()(x))
    x = layers.Conv2D(4, 3, name="last")(layers.Multiply()([x, layers.Reshape((1, 1, 4))(gate)]))
    model = keras().Model(given, layers.Dense(3, name="score")(layers.GlobalAveragePooling2D()(x)))
    _, parts = split(converted(model), AUTO)
    assert [node.name for node in parts.head] == ["score/Gemm"]


def test_auto_cuts_before_the_first_operator_that_an_accelerator_lacks() -> None:
    layers = keras().layers
    given = keras().Input((6, 6, 4))
    x = layers.Conv2D(4, 3, activation="relu", name="first")(given)
    x = layers.Conv2D(4, 3, activation="sigmoid", name="second")(x)
    model = keras().Model(given, layers.Conv2D(3, 1, name="third")(x))
    cut, parts = split(converted(model), AUTO, [SupportedOperators(anywhere={"Conv", "Relu"}, at_inputs={"Transpose"})])
    assert cut.tensors == ("second/Conv",)
    assert {"second/Sigmoid", "third/Conv"} <= {node.name for node in parts.head}


def test_a_graph_without_supported_operators_is_all_head() -> None:
    cut, _ = split(converted(trained()), AUTO, [SupportedOperators(anywhere={"Conv"}), SupportedOperators(anywhere={"Relu"})])
    assert cut.featurizer_nodes == 0


def test_an_unknown_layer_gets_a_suggestion() -> None:
    with pytest.raises(NotFoundError) as caught:
        split(converted(trained()), "hiden")
    assert str(caught.value) == "the graph has no node or layer 'hiden'; known: hidden"
