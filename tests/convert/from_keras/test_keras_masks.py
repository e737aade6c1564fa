"""Masked steps of sequences: the graph computes what Keras predicts for samples with padding before, after and between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from convert.from_keras.reader import graph_of
from edgewright.errors import ModelError
from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, run_keras, shaken

STEPS, FEATURES, WORDS = 7, 3, 11
MASKS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1],
        [1, 0, 1, 0, 0, 1, 1],
        [0, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ],
    np.float32,
)
NOTHING = np.zeros((1, STEPS), np.float32)
Layers = Callable[[Any], list[Any]]


def padded(value: float, masks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return samples whose masked steps hold `value`."""
    return np.where(masks[..., None] > 0, noise(len(masks), STEPS, FEATURES), np.float32(value)).astype(np.float32)


def tokens(masks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    words = np.random.default_rng(1).integers(1, WORDS, masks.shape)
    return np.where(masks > 0, words, 0).astype(np.int32)


def difference(given: Any, layers: list[Any], batch: Any) -> float:
    value = given
    for layer in layers:
        value = layer(value)
    model = shaken(keras().Model(given, value))
    return relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0])


def layer(kind: str, *arguments: Any, **settings: Any) -> Any:
    return getattr(keras().layers, kind)(*arguments, **settings)


RECURRENT = [
    pytest.param(lambda kind: [layer(kind, 5)], id="last state"),
    pytest.param(lambda kind: [layer(kind, 5, return_sequences=True)], id="every state"),
    pytest.param(lambda kind: [layer(kind, 5, return_sequences=True, zero_output_for_mask=True)], id="zeros"),
    pytest.param(lambda kind: [layer(kind, 5, go_backwards=True)], id="backwards"),
    pytest.param(lambda kind: [layer(kind, 5, use_bias=False)], id="no bias"),
    pytest.param(lambda kind: [layer("Bidirectional", layer(kind, 5, return_sequences=True))], id="both ways"),
    pytest.param(lambda kind: [layer("Bidirectional", layer(kind, 5), merge_mode="sum")], id="both ways, last state"),
    pytest.param(lambda kind: [layer(kind, 5, return_sequences=True), layer(kind, 4)], id="two layers"),
]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("layers", RECURRENT)
def test_a_recurrent_layer_skips_masked_steps(kind: str, layers: Layers) -> None:
    given = keras().Input((STEPS, FEATURES))
    batch = padded(-1.0, np.concatenate([MASKS, NOTHING]))
    assert difference(given, [layer("Masking", -1.0), *layers(kind)], batch) < 1e-5


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("steps", [pytest.param(STEPS, id="fixed"), pytest.param(None, id="any length")])
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(lambda: [layer("LSTM", 5)], id="lstm"),
        pytest.param(lambda: [layer("GlobalAveragePooling1D")], id="average"),
        pytest.param(lambda: [layer("LayerNormalization"), layer("GlobalAveragePooling1D", keepdims=True)], id="kept axis"),
        pytest.param(lambda: [layer("Dropout", 0.5), layer("Bidirectional", layer("GRU", 3))], id="dropout between"),
        pytest.param(
            lambda: [
                layer("LSTM", 4, return_sequences=True),
                layer("TimeDistributed", layer("Dense", 6, activation="relu")),
                layer("GRU", 2),
            ],
            id="dense on every step",
        ),
        pytest.param(lambda: [layer("BatchNormalization"), layer("SimpleRNN", 4)], id="batch normalization"),
        pytest.param(lambda: [layer("Conv1D", 4, 3, padding="same"), layer("LSTM", 4)], id="convolution drops the mask"),
    ],
)
def test_padding_of_an_embedding_is_skipped(layers: Callable[[], list[Any]], steps: int | None) -> None:
    given = keras().Input((steps,), dtype="int32", name="tokens")
    embedding = layer("Embedding", WORDS, 6, mask_zero=True)
    assert difference(given, [embedding, *layers()], tokens(MASKS)) < 1e-5


def test_a_masked_step_is_zero_after_masking() -> None:
    given = keras().Input((STEPS, FEATURES))
    assert difference(given, [layer("Masking", 2.0), layer("Dense", 4)], padded(2.0, MASKS)) < 1e-5


@pytest.mark.parametrize(
    ("inner", "shape"),
    [
        pytest.param(lambda: layer("Dense", 4), (5, 3), id="dense"),
        pytest.param(lambda: layer("Conv2D", 4, 3, padding="same"), (3, 6, 6, 2), id="convolution"),
        pytest.param(lambda: layer("Flatten"), (3, 4, 2), id="flatten"),
        pytest.param(lambda: layer("GlobalAveragePooling2D"), (3, 4, 5, 2), id="pooling"),
        pytest.param(lambda: layer("LSTM", 4), (3, 5, 2), id="sequences of sequences"),
        pytest.param(
            lambda: keras().Sequential(
                [layer("Conv1D", 3, 2, activation="relu"), layer("GlobalMaxPooling1D"), layer("Dense", 2)]
            ),
            (3, 8, 2),
            id="model",
        ),
        pytest.param(lambda: layer("TimeDistributed", layer("Dense", 2)), (3, 4, 5), id="nested"),
    ],
)
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "any length"])
def test_a_layer_on_every_step_computes_the_same(inner: Callable[[], Any], shape: tuple[int, ...], free: bool) -> None:
    given = keras().Input((None, *shape[1:]) if free else shape)
    assert difference(given, [layer("TimeDistributed", inner())], noise(4, *shape)) < 1e-5


@pytest.mark.parametrize(
    ("join", "masked"),
    [
        pytest.param(lambda: layer("Concatenate"), True, id="features"),
        pytest.param(lambda: layer("Concatenate", axis=1), True, id="steps"),
        pytest.param(lambda: layer("Concatenate", axis=1), False, id="steps, one without a mask"),
        pytest.param(lambda: layer("Add"), True, id="sum"),
        pytest.param(lambda: layer("Add"), False, id="sum, one without a mask"),
    ],
)
def test_masks_of_two_branches_are_joined(join: Callable[[], Any], masked: bool) -> None:
    left, right = keras().Input((STEPS, FEATURES)), keras().Input((STEPS, FEATURES))
    joined = join()([layer("Masking")(left), layer("Masking")(right) if masked else right])
    model = shaken(keras().Model([left, right], layer("LSTM", 4)(joined)))
    batch = [padded(0.0, MASKS), padded(0.0, MASKS[::-1])]
    assert relative_difference(run_graph(converted(model), *batch)[0], run_keras(model, *batch)[0]) < 1e-5


def nested(kind: str) -> Any:
    """Return a model for sequences, to be a layer of another model."""
    inner = keras().Sequential([keras().Input((STEPS, FEATURES)), layer("LSTM", 4)], name="inner")
    return inner if kind == "sequential" else keras().Model(inner.inputs, inner.outputs, name="inner")


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_nested_model_that_gets_a_mask_is_named(kind: str) -> None:
    given = keras().Input((STEPS, FEATURES))
    with pytest.raises(ModelError, match=r"^layer 'inner' \(\w+, layer 4 of 4\) cannot be converted: it gets a mask"):
        graph_of(keras().Model(given, nested(kind)(layer("Masking")(given))))


def test_a_layer_that_gets_a_mask_and_has_no_rule_for_it_is_named() -> None:
    given = keras().Input((STEPS,), dtype="int32")
    steps = layer("Embedding", WORDS, STEPS, mask_zero=True)(given)
    with pytest.raises(ModelError, match=r"^layer 'weights' \(Softmax, layer \d of \d\) cannot be converted: it gets a mask"):
        graph_of(keras().Model(given, layer("Softmax", name="weights")(steps)))
