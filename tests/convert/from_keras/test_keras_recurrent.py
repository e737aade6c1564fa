"""Sequence layers of Keras compute the same in ONNX; unsupported settings are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert.from_keras.reader import graph_of
from edgewright.errors import ModelError
from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, run_keras, shaken

STEPS, FEATURES = 7, 3


def layer(kind: str, **settings: Any) -> Any:
    return getattr(keras().layers, kind)(5, **settings)


def model_of(sequence: Any) -> Any:
    given = keras().Input((STEPS, FEATURES))
    return shaken(keras().Model(given, sequence(given)))


def difference(model: Any, batch: Any) -> float:
    return relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="last state"),
        pytest.param({"return_sequences": True}, id="every state"),
        pytest.param({"go_backwards": True}, id="backwards"),
        pytest.param({"use_bias": False}, id="no bias"),
        pytest.param({"activation": "relu"}, id="relu"),
    ],
)
def test_a_recurrent_layer_computes_the_same(kind: str, settings: dict[str, Any]) -> None:
    assert difference(model_of(layer(kind, **settings)), noise(4, STEPS, FEATURES)) < 1e-5


def test_a_gru_with_reset_before_the_product_computes_the_same() -> None:
    assert difference(model_of(layer("GRU", reset_after=False)), noise(4, STEPS, FEATURES)) < 1e-5


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("sequences", [True, False], ids=["every state", "last state"])
def test_both_directions_compute_the_same(merge: str, sequences: bool) -> None:
    both = keras().layers.Bidirectional(layer("LSTM", return_sequences=sequences), merge_mode=merge)
    assert difference(model_of(both), noise(4, STEPS, FEATURES)) < 1e-5


def test_token_sequences_of_any_length_convert() -> None:
    layers = keras().layers
    given = keras().Input((None,), dtype="int32", name="tokens")
    model = shaken(keras().Model(given, layers.Dense(2)(layers.LSTM(4)(layers.Embedding(11, 6)(given)))))
    tokens = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
    assert difference(model, tokens) < 1e-5


def test_channels_become_the_features_of_a_sequence() -> None:
    layers = keras().layers
    given = keras().Input((12, FEATURES))
    model = shaken(keras().Model(given, layers.GRU(4)(layers.MaxPooling1D()(layers.Conv1D(6, 3)(given)))))
    assert difference(model, noise(2, 12, FEATURES)) < 1e-5


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        pytest.param(lambda layers: layers.LSTM(2, stateful=False, return_state=True), "states that are inputs", id="state"),
        pytest.param(lambda layers: layers.GRU(2, activation="elu"), "the activation 'elu'; only sigmoid, tanh, relu", id="elu"),
        pytest.param(
            lambda layers: layers.LSTM(2, go_backwards=True, return_sequences=True), "go_backwards=True with", id="turned around"
        ),
    ],
)
def test_a_setting_that_onnx_lacks_is_named(build: Any, reason: str) -> None:
    given = keras().Input((STEPS, FEATURES))
    result = build(keras().layers)(given)
    with pytest.raises(ModelError, match=reason):
        graph_of(keras().Model(given, result[0] if isinstance(result, list | tuple) else result))


def test_a_text_input_is_rejected_by_name() -> None:
    given = keras().Input((1,), dtype="string", name="sentence")
    model = keras().Model(given, keras().layers.Identity()(given))
    with pytest.raises(ModelError, match=r"^input 'sentence' must hold numbers, but it holds text"):
        graph_of(model)
