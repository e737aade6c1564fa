"""Whole Keras models: nested, shared, with several inputs and outputs, and models that are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.from_keras.keras_file import KerasFile
from convert.from_keras.reader import graph_of, read_keras
from edgewright.errors import ModelError
from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, run_keras, saved, shaken

IMAGE = (8, 6, 3)


def backbone() -> Any:
    layers = keras().layers
    given = keras().Input(IMAGE)
    return keras().Model(given, layers.ReLU()(layers.Conv2D(5, 3, padding="same", name="inner")(given)), name="backbone")


def test_a_nested_model_that_is_called_twice_stores_its_weights_once() -> None:
    layers, inner = keras().layers, backbone()
    left, right = keras().Input(IMAGE, name="left"), keras().Input(IMAGE, name="right")
    model = shaken(keras().Model([left, right], layers.Subtract()([inner(left), inner(right)])))
    graph = converted(model)
    one, other = noise(2, *IMAGE), noise(2, *IMAGE, seed=1)
    assert relative_difference(run_graph(graph, one, other)[0], run_keras(model, one, other)[0]) < 1e-5
    assert sorted(graph.graph.initializers) == ["backbone/inner/bias", "backbone/inner/kernel"]


def test_several_outputs_keep_their_order_and_names() -> None:
    layers = keras().layers
    given = keras().Input(IMAGE)
    x = layers.Conv2D(4, 3, name="map")(given)
    model = shaken(keras().Model(given, [layers.Dense(2, name="score")(layers.GlobalAveragePooling2D()(x)), x]))
    graph = converted(model)
    batch = noise(2, *IMAGE)
    found, expected = run_graph(graph, batch), run_keras(model, batch)
    assert [value.name for value in graph.graph.outputs] == ["score", "map"]
    assert [relative_difference(one, other) < 1e-5 for one, other in zip(found, expected, strict=True)] == [True, True]


def test_an_input_that_is_also_an_output_gets_an_identity_node() -> None:
    layers = keras().layers
    given = keras().Input((4,))
    row = layers.Dropout(0.5, name="same")(given)
    model = keras().Model(given, [row, layers.Dense(2, name="score")(row)])
    batch = noise(2, 4)
    assert relative_difference(run_graph(converted(model), batch)[0], batch) == 0


def test_a_sequential_model_converts() -> None:
    layers = keras().layers
    model = shaken(keras().Sequential([keras().Input(IMAGE), backbone(), layers.Flatten(), layers.Dense(3)]))
    batch = noise(2, *IMAGE)
    assert relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0]) < 1e-5


def test_dynamic_axes_of_an_input_have_names() -> None:
    layers = keras().layers
    given = keras().Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same")(given)
    model = shaken(keras().Model(given, layers.Dense(2)(layers.GlobalMaxPooling2D()(x))))
    graph, batch = converted(model), noise(2, 11, 6, 3)
    assert str(graph.graph.inputs[0].shape) == "[N,image_axis1,image_axis2,3]"
    assert relative_difference(run_graph(graph, batch)[0], run_keras(model, batch)[0]) < 1e-5


def test_an_integer_input_is_cast_to_float() -> None:
    layers = keras().layers
    given = keras().Input(IMAGE, dtype="uint8")
    model = shaken(keras().Model(given, layers.Conv2D(2, 3)(layers.Rescaling(1 / 255)(given))))
    batch = (abs(noise(2, *IMAGE)) * 80).astype("uint8")
    assert relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0]) < 1e-5


def test_a_layer_without_a_rule_is_named_with_its_class_and_position() -> None:
    layers = keras().layers
    given = keras().Input((5, 4, 2))
    model = keras().Model(given, layers.ConvLSTM1D(3, 2, name="steps")(layers.Dense(4)(given)))
    with pytest.raises(ModelError) as caught:
        graph_of(model)
    assert str(caught.value) == (
        "layer 'steps' (ConvLSTM1D, layer 2 of 2) cannot be converted: this layer is not supported; "
        "replace it in the model, or give a converter for it with --converters FILE.py --trust"
    )


def test_a_setting_without_a_rule_is_named() -> None:
    layers = keras().layers
    given = keras().Input(IMAGE)
    model = keras().Model(given, layers.UpSampling2D(2, interpolation="lanczos3", name="up")(given))
    with pytest.raises(ModelError) as caught:
        graph_of(model)
    assert str(caught.value) == (
        "layer 'up' (UpSampling2D, layer 1 of 1) cannot be converted: interpolation='lanczos3'; only nearest and bilinear are "
        "supported; replace it in the model, or give a converter for it with --converters FILE.py --trust"
    )


def test_strides_that_skip_entries_of_a_volume_are_rejected() -> None:
    layers = keras().layers
    given = keras().Input((6, 6, 6, 1))
    model = keras().Model(given, layers.AveragePooling3D(1, 3, padding="same", name="sparse")(given))
    with pytest.raises(
        ModelError, match=r"^layer 'sparse' \(AveragePooling3D, layer 1 of 1\) cannot be converted: padding='same' with"
    ):
        graph_of(model)


def test_a_custom_activation_without_converter_is_named() -> None:
    layers = keras().layers
    given = keras().Input((4,))

    def relu(x: Any) -> Any:
        return x * 2

    model = keras().Model(given, layers.Dense(3, activation=relu, name="mine")(given))
    with pytest.raises(ModelError, match=r"^layer 'mine' \(Dense, layer 1 of 1\) cannot be converted: the activation 'relu' is"):
        graph_of(model)


def test_a_lambda_layer_is_rejected_before_keras_is_loaded(tmp_path: Path) -> None:
    layers = keras().layers
    given = keras().Input((4,))
    twice = layers.Lambda(lambda x: x * 2, output_shape=(4,), name="twice")
    path = saved(keras().Model(given, twice(given)), tmp_path / "code.keras")
    with pytest.raises(ModelError) as caught:
        read_keras(KerasFile.open(path))
    assert str(caught.value) == (
        f"{path}: layer 'twice' (Lambda, layer 1) is Python code, which is not run: "
        "replace it by layers, or add --trust if you made it"
    )


def test_a_custom_layer_is_rejected_by_name(tmp_path: Path) -> None:
    class Twice(keras().layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    given = keras().Input((4,))
    path = saved(keras().Model(given, Twice(name="twice")(given)), tmp_path / "custom.keras")
    with pytest.raises(ModelError) as caught:
        read_keras(KerasFile.open(path))
    assert str(caught.value) == (
        f"{path}: layer 'twice' (Twice, layer 1) is a custom layer, not a built-in one: "
        "give its class and converter with --converters FILE.py --trust, or replace it by built-in layers"
    )


def test_a_model_without_input_shape_is_rejected() -> None:
    model = keras().Sequential([keras().layers.Dense(3)], name="shapeless")
    with pytest.raises(ModelError, match=r"^model 'shapeless' has no layer graph: it must be functional or a Sequential model"):
        graph_of(model)
