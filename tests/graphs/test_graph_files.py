"""Contents of graph.onnx and of the weights files, and reading them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from convert.split import AUTO, split
from edgewright.errors import ModelError
from edgewright.graphs.files import ALIGNMENT, write_graph
from tests.support.convert_networks import converted, digits, keras, noise, relative_difference, run_keras, trained


def write(model: Any, target: Path) -> onnx.ModelProto:
    graph = converted(model)
    _, parts = split(graph, AUTO)
    write_graph(target, graph, parts.is_head)
    return onnx.load(target / "graph.onnx", load_external_data=False)


def location(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def test_float_weights_are_stored_in_the_file_of_their_part(tmp_path: Path) -> None:
    written = write(trained(), tmp_path)
    places = {tensor.name: location(tensor).get("location", "inside") for tensor in written.graph.initializer}
    assert places == {
        "stem/Conv/kernel": "featurizer.weights",
        "stem/Conv/bias": "featurizer.weights",
        "block/Conv/kernel": "featurizer.weights",
        "block/Conv/bias": "featurizer.weights",
        "hidden/kernel": "head.weights",
        "hidden/bias": "head.weights",
        "classes/kernel": "head.weights",
        "classes/bias": "head.weights",
    }


def test_shape_constants_are_stored_in_the_graph(tmp_path: Path) -> None:
    given = keras().Input((4,))
    model = keras().Model(given, keras().layers.Dense(2)(keras().layers.Reshape((2, 2))(given)))
    written = write(model, tmp_path)
    inside = [tensor.name for tensor in written.graph.initializer if not tensor.external_data]
    assert inside == [f"{model.layers[1].name}/shape"]


def test_tensors_are_aligned_for_vector_loads(tmp_path: Path) -> None:
    written = write(trained(), tmp_path)
    assert {int(location(tensor)["offset"]) % ALIGNMENT for tensor in written.graph.initializer} == {0}


def test_the_files_are_loaded_by_onnx_and_compute_the_same(tmp_path: Path) -> None:
    write(trained(), tmp_path)
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    from accel.backends.onnxruntime_cpu import load_graph

    images = digits()[0][:10]
    found = load_graph(tmp_path / "graph.onnx").run({"image": images})["classes"]
    assert relative_difference(found, run_keras(trained(), images)[0]) < 1e-5


@pytest.mark.parametrize(("wrong", "word"), [(np.nan, "NaN"), (np.inf, "infinity")], ids=["NaN", "infinity"])
def test_a_weight_that_is_not_finite_is_named(wrong: float, word: str, tmp_path: Path) -> None:
    given = keras().Input((4,))
    model = keras().Model(given, keras().layers.Dense(2, name="broken")(given))
    model.set_weights([np.full((4, 2), wrong, np.float32), np.zeros(2, np.float32)])
    with pytest.raises(ModelError) as caught:
        write(model, tmp_path)
    assert str(caught.value) == (
        f"weight broken/kernel must hold finite numbers, but it holds {word}: the training diverged; train the model again"
    )


def test_a_graph_with_a_resize_is_loaded_from_disk(tmp_path: Path) -> None:
    """Runtimes need the scales of a Resize before they read weights."""
    layers = keras().layers
    given = keras().Input((4, 4, 3), name="image")
    model = keras().Model(given, layers.Conv2D(2, 1)(layers.UpSampling2D(2, interpolation="bilinear")(given)))
    write(model, tmp_path)
    from accel.backends.onnxruntime_cpu import load_graph

    found = next(iter(load_graph(tmp_path / "graph.onnx").run({"image": noise(2, 4, 4, 3)}).values()))
    assert relative_difference(found, run_keras(model, noise(2, 4, 4, 3))[0]) < 1e-5


def test_infinities_of_a_mask_are_allowed(tmp_path: Path) -> None:
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 3])
    masked = onnx.helper.make_tensor_value_info("masked", onnx.TensorProto.FLOAT, ["N", 3])
    mask = onnx.numpy_helper.from_array(np.array([0, 0, -np.inf], np.float32), "mask")
    nodes = [onnx.helper.make_node("Add", ["scores", "mask"], ["masked"], name="add")]
    graph = onnx.helper.make_graph(nodes, "model", [scores], [masked], [mask])
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]))
    write_graph(tmp_path, model, lambda _node: True)
    assert np.isneginf(onnx.numpy_helper.to_array(onnx.load(tmp_path / "graph.onnx").graph.initializer[0])[2])


def one_input(nodes: list[onnx.NodeProto], dtype: int, **constants: Any) -> ir.Model:
    """Return a model from x [N, 16] to y."""
    graph = onnx.helper.make_graph(
        nodes,
        "model",
        [onnx.helper.make_tensor_value_info("x", dtype, ["N", 16])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10))


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, inputs.split(), [output], **attributes)


def floats(values: Any) -> Any:
    return np.array(values, np.float32)


def integers(values: Any) -> Any:
    return np.array(values, np.int32)


ADDED = node("Add", "x r", "y")
SHAPES = [
    pytest.param(
        [node("Slice", "x s e a", "y")], {"s": integers([1]), "e": integers([9]), "a": integers([1])}, id="Slice of int32"
    ),
    pytest.param(
        [node("Cast", "e", "e64", to=7), node("Slice", "x s e64 a", "y")],
        {"s": np.array([1]), "e": integers([9]), "a": np.array([1])},
        id="Slice by a cast of int32",
    ),
    pytest.param([node("OneHot", "x d v", "y")], {"d": floats(10), "v": floats([0, 1])}, id="OneHot of a float depth"),
    pytest.param([node("Range", "a b c", "r"), ADDED], {"a": floats(0), "b": floats(16), "c": floats(1)}, id="Range of floats"),
    pytest.param([node("HannWindow", "n", "r"), ADDED], {"n": integers(16)}, id="window"),
    pytest.param([node("CumSum", "x a", "y")], {"a": integers(1)}, id="CumSum of int32"),
    pytest.param([node("Gather", "x i", "y", axis=1)], {"i": integers([3, 4])}, id="Gather of int32"),
]


@pytest.mark.parametrize(("nodes", "constants"), SHAPES)
def test_a_constant_that_determines_a_shape_does_not_prevent_loading(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], tmp_path: Path
) -> None:
    import onnxruntime

    from accel.backends.onnxruntime_cpu import load_graph

    model = one_input(nodes, onnx.TensorProto.FLOAT, **constants)
    given = np.abs(noise(2, 16)).round()
    expected: Any = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": given})
    write_graph(tmp_path, model, lambda _node: True)
    assert np.array_equal(load_graph(tmp_path / "graph.onnx").run({"x": given})["y"], expected[0])


INTENDED = [
    pytest.param(
        [node("Equal", "x c", "m"), node("Where", "m z x", "y")],
        {"c": floats(-np.inf), "z": floats(0)},
        id="compared with infinity",
    ),
    pytest.param([node("IsNaN", "x", "m"), node("Where", "m c x", "y")], {"c": floats(np.nan)}, id="NaN for a missing value"),
    pytest.param([node("Add", "x c", "y")], {"c": floats([0, -np.inf] * 8)}, id="mask"),
    pytest.param([node("ReduceMax", "x", "m"), node("Max", "m c", "y")], {"c": floats(-np.inf)}, id="start of a maximum"),
]


@pytest.mark.parametrize(("nodes", "constants"), INTENDED)
def test_a_constant_of_no_layer_may_hold_infinity_or_nan(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], tmp_path: Path
) -> None:
    write_graph(tmp_path, one_input(nodes, onnx.TensorProto.FLOAT, **constants), lambda _node: True)
    written = {tensor.name: tensor for tensor in onnx.load(tmp_path / "graph.onnx").graph.initializer}
    assert np.array_equal(onnx.numpy_helper.to_array(written["c"]), constants["c"], equal_nan=True)


def test_a_bias_that_is_nan_is_named(tmp_path: Path) -> None:
    model = one_input([node("Add", "x bias", "y")], onnx.TensorProto.FLOAT, bias=floats([np.nan] * 16))
    with pytest.raises(ModelError) as caught:
        write_graph(tmp_path, model, lambda _node: True)
    assert str(caught.value) == (
        "weight bias must hold finite numbers, but it holds NaN: the training diverged; train the model again"
    )
