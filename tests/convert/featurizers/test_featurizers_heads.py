"""Heads and fine-tuning: trained layers, frozen layers, rejected arguments."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits

from convert.featurizers.heads import FineTuneOptions, attach_head, fine_tune
from convert.featurizers.networks import BuildOptions, BuiltNetwork, NetworkNotes, build_network, without_head
from convert.featurizers.preprocessing import caffe, normalize, plain, signed, torch_style
from convert.frameworks import import_keras
from edgewright.contracts.variant import Preprocessing
from edgewright.errors import BadInputError, ModelError, OperationError, SamplesError

# NumPy 2 deprecates the way in which Keras reads TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.fixture(scope="module")
def network() -> BuiltNetwork:
    return build_network("resnet8")


@pytest.fixture(scope="module")
def featurizer() -> BuiltNetwork:
    """Return a featurizer that tests share; no test changes its weights."""
    return build_network("resnet8", BuildOptions(featurizer_only=True))


def digit_images(count: int) -> tuple[Array, Array]:
    """Return scanned digits as 32x32 RGB pixels 0..255."""
    digits = load_digits()
    large = np.repeat(np.repeat(digits.images[:count] * 255 / 16, 4, axis=1), 4, axis=2)
    return np.repeat(large[..., np.newaxis], 3, axis=-1).astype(np.float32), digits.target[:count]


def tiny_network(keras: Any) -> BuiltNetwork:
    """Return a network of two layers, which trains in seconds."""
    image = keras.Input((32, 32, 3))
    features = keras.layers.Conv2D(16, 8, strides=8, activation="relu", name="features")(image)
    scores = keras.layers.Dense(10, activation="softmax", name="scores")(keras.layers.Flatten()(features))
    notes = NetworkNotes(network="tiny", preprocessing=plain(32), head_layers=("scores",))
    return BuiltNetwork(keras.Model(image, scores), notes)


def weights_of(network: BuiltNetwork) -> list[Array]:
    return [np.array(array) for array in without_head(network).model.get_weights()]


def test_any_head_can_be_attached_and_its_layers_are_recorded(featurizer: BuiltNetwork, keras: Any) -> None:
    head = keras.Sequential([keras.layers.Dense(16, activation="relu", name="hidden"), keras.layers.Dense(2, name="out")])
    network = attach_head(featurizer, head)
    assert network.model.output.shape == (None, 2)
    assert network.notes.head_layers == ("hidden", "out")
    assert network.notes.preprocessing == featurizer.notes.preprocessing


def test_a_functional_head_is_one_layer(featurizer: BuiltNetwork, keras: Any) -> None:
    features = keras.Input((64,))
    both = keras.layers.Concatenate()([keras.layers.Dense(2)(features), keras.layers.Dense(3)(features)])
    network = attach_head(featurizer, keras.Model(features, both, name="two_branches"))
    assert network.model.output.shape == (None, 5)
    assert network.notes.head_layers == ("two_branches",)


def test_a_new_head_replaces_the_old_one(network: BuiltNetwork, keras: Any) -> None:
    renewed = attach_head(network, keras.layers.Dense(7, name="mine"))
    assert renewed.model.output.shape == (None, 7)
    assert "predictions" not in {layer.name for layer in renewed.model.layers}


def test_a_head_for_other_features_is_rejected(featurizer: BuiltNetwork, keras: Any) -> None:
    other = keras.Model(inputs := keras.Input((9,)), keras.layers.Dense(2)(inputs), name="other")
    with pytest.raises(ModelError, match=r"^the head's layer 'other' does not accept features of shape \(None, 64\): "):
        attach_head(featurizer, other)


def test_a_layer_name_of_the_featurizer_is_rejected(featurizer: BuiltNetwork, keras: Any) -> None:
    with pytest.raises(ModelError, match=r"^the head's layer 'features' has the name of a layer of resnet8: rename it$"):
        attach_head(featurizer, keras.layers.Dense(2, name="features"))


def test_training_the_head_does_not_change_the_featurizer(featurizer: BuiltNetwork) -> None:
    network = attach_head(featurizer, import_keras().layers.Dense(10, activation="softmax"))
    before = weights_of(network)
    losses = fine_tune(network, *digit_images(96), options=FineTuneOptions(epochs=5)).losses
    assert losses[-1] < losses[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, weights_of(network), strict=True))


@pytest.mark.parametrize("part", ["head", "all"])
def test_training_learns_real_digits(keras: Any, part: Literal["head", "all"]) -> None:
    network = tiny_network(keras)
    pixels, labels = digit_images(400)
    fine_tune(network, pixels[:300] / 255, labels[:300], part=part, options=FineTuneOptions(epochs=12, learning_rate=1e-2))
    predicted = network.model.predict(pixels[300:] / 255, verbose=0).argmax(axis=1)
    assert np.mean(predicted == labels[300:]) > 0.8


def test_training_the_whole_network_includes_frozen_layers_and_freezes_them_again(keras: Any) -> None:
    network = tiny_network(keras)
    network.model.get_layer("features").trainable = False
    before = weights_of(network)
    fine_tune(network, *digit_images(8), part="all", options=FineTuneOptions(epochs=1))
    assert not np.array_equal(before[0], weights_of(network)[0])
    assert not network.model.get_layer("features").trainable


def test_a_regressor_is_trained_with_its_own_loss(featurizer: BuiltNetwork, keras: Any) -> None:
    network = attach_head(featurizer, keras.layers.Dense(1, name="amount"))
    pixels, labels = digit_images(64)
    losses = fine_tune(network, pixels / 255, labels / 9, options=FineTuneOptions(loss="mse", epochs=8)).losses
    assert losses[-1] < losses[0]


def test_training_with_the_same_seed_gives_the_same_weights(keras: Any) -> None:
    keras.utils.set_random_seed(1)
    first, second = tiny_network(keras), tiny_network(keras)
    second.model.set_weights(first.model.get_weights())
    for network in (first, second):
        fine_tune(network, *digit_images(64), options=FineTuneOptions(epochs=2, seed=5))
    np.testing.assert_array_equal(*(network.model.get_layer("scores").get_weights()[0] for network in (first, second)))


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        pytest.param((4, 8, 8, 3), [0] * 4, "images must have shape [N, 32, 32, 3], but they have [4, 8, 8, 3]", id="shape"),
        pytest.param(
            (4, 32, 32, 3), [0] * 3, "at least one image and one label per image, not 3 labels for 4 images", id="count"
        ),
        pytest.param((2, 32, 32, 3), [0, 10], "labels must be 0 to 9, but they range from 0 to 10", id="class"),
        pytest.param((2, 32, 32, 3), [0.5, 1.0], "labels must be whole class numbers, not float64", id="fractions"),
        pytest.param((0, 32, 32, 3), [], "at least one image and one label per image, not 0 labels for 0 images", id="none"),
    ],
)
def test_samples_that_do_not_fit_are_rejected(
    network: BuiltNetwork, pixels: tuple[int, ...], labels: list[float], message: str
) -> None:
    with pytest.raises(SamplesError) as caught:
        fine_tune(network, np.zeros(pixels, np.float32), np.array(labels))
    assert message in str(caught.value)


def test_images_with_nan_are_rejected(network: BuiltNetwork) -> None:
    with pytest.raises(SamplesError, match="images must be finite numbers"):
        fine_tune(network, np.full((2, 32, 32, 3), np.nan, np.float32), np.array([0, 1]))


def test_a_network_without_head_cannot_train_its_head(featurizer: BuiltNetwork) -> None:
    with pytest.raises(BadInputError, match=r"^resnet8 has no head to train: attach one, or train with part='all'$"):
        fine_tune(featurizer, *digit_images(4))


def test_divergent_training_is_reported(featurizer: BuiltNetwork, keras: Any) -> None:
    network = attach_head(featurizer, keras.layers.Dense(1, name="amount"))
    pixels, labels = digit_images(8)
    with pytest.raises(OperationError, match="training did not converge: the loss became"):
        fine_tune(network, pixels, labels, options=FineTuneOptions(loss="mse", epochs=3, learning_rate=1e30))


@pytest.mark.parametrize(
    ("preprocessing", "network"),
    [
        pytest.param(caffe(224), "resnet50", id="caffe"),
        pytest.param(caffe(224), "vgg16", id="caffe for vgg"),
        pytest.param(torch_style(224), "densenet", id="torch"),
        pytest.param(signed(224), "mobilenet_v2", id="signed"),
    ],
)
def test_preprocessing_matches_keras(keras: Any, preprocessing: Preprocessing, network: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    expected = getattr(keras.applications, network).preprocess_input(pixels.copy())
    np.testing.assert_allclose(normalize(pixels, preprocessing), expected, atol=1e-4)


def test_plain_preprocessing_changes_no_pixel() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(normalize(pixels, plain(2)), pixels.astype(np.float32))


def test_gray_images_are_rejected_for_color_preprocessing() -> None:
    with pytest.raises(SamplesError, match=r"images must have shape \[N, height, width, 3\], but they have \[1, 8, 8, 1\]"):
        normalize(np.zeros((1, 8, 8, 1)), caffe(8))
