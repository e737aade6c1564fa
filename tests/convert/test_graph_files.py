"""What lies in graph.onnx and what outside, and that it can be read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from convert.graph_files import ALIGNMENT, write_graph
from convert.split import AUTO, split
from edgewright.errors import ModelError
from tests.convert.networks import converted, digits, keras, relative_difference, run_keras, trained


def write(model: Any, target: Path) -> onnx.ModelProto:
    graph = converted(model)
    _, parts = split(graph, AUTO)
    write_graph(target, graph, parts.is_head)
    return onnx.load(target / "graph.onnx", load_external_data=False)


def location(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def test_every_float_lies_outside_by_its_side_and_every_shape_inside(tmp_path: Path) -> None:
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


def test_a_shape_constant_stays_inside(tmp_path: Path) -> None:
    given = keras().Input((4,))
    model = keras().Model(given, keras().layers.Dense(2)(keras().layers.Reshape((2, 2))(given)))
    written = write(model, tmp_path)
    inside = [tensor.name for tensor in written.graph.initializer if not tensor.external_data]
    assert inside == [f"{model.layers[1].name}/shape"]


def test_tensors_start_where_vectors_load_well(tmp_path: Path) -> None:
    written = write(trained(), tmp_path)
    assert {int(location(tensor)["offset"]) % ALIGNMENT for tensor in written.graph.initializer} == {0}


def test_the_files_are_loaded_by_onnx_and_say_the_same(tmp_path: Path) -> None:
    write(trained(), tmp_path)
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    from accel.backends.onnxruntime_cpu import load_graph

    images = digits()[0][:10]
    found = load_graph(tmp_path / "graph.onnx").run({"image": images})["classes"]
    assert relative_difference(found, run_keras(trained(), images)[0]) < 1e-5


@pytest.mark.parametrize(("wrong", "word"), [(np.nan, "NaN"), (np.inf, "infinity")], ids=["NaN", "infinity"])
def test_a_weight_that_is_no_number_is_named(wrong: float, word: str, tmp_path: Path) -> None:
    given = keras().Input((4,))
    model = keras().Model(given, keras().layers.Dense(2, name="broken")(given))
    model.set_weights([np.full((4, 2), wrong, np.float32), np.zeros(2, np.float32)])
    with pytest.raises(ModelError) as refused:
        write(model, tmp_path)
    assert str(refused.value) == (
        f"weight broken/kernel must hold finite numbers, but it holds {word}: the training diverged; train the model again"
    )
