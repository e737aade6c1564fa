"""Every Keras layer with a rule computes the same in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, run_keras, shaken

Build = Callable[[Any, Any], Any]

IMAGE = (9, 7, 4)
ROW = (12, 5)
FEATURES = (6,)

CASES = [
    ("conv valid", IMAGE, lambda k, x: k.Conv2D(5, 3)(x)),
    ("conv same stride 2", IMAGE, lambda k, x: k.Conv2D(5, (3, 2), strides=2, padding="same")(x)),
    ("conv dilated", IMAGE, lambda k, x: k.Conv2D(5, 3, dilation_rate=2, padding="same", use_bias=False)(x)),
    ("conv in groups", IMAGE, lambda k, x: k.Conv2D(6, 3, groups=2)(x)),
    ("conv with activation", IMAGE, lambda k, x: k.Conv2D(5, 3, activation="relu6")(x)),
    ("conv 1d causal", ROW, lambda k, x: k.Conv1D(3, 3, padding="causal", dilation_rate=2)(x)),
    ("conv 1d same", ROW, lambda k, x: k.Conv1D(3, 4, strides=3, padding="same")(x)),
    ("conv 3d", (5, 4, 3, 2), lambda k, x: k.Conv3D(3, 2)(x)),
    ("depthwise", IMAGE, lambda k, x: k.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)),
    ("depthwise stride 2", IMAGE, lambda k, x: k.DepthwiseConv2D(3, strides=2, padding="same", activation="relu")(x)),
    ("depthwise 1d", ROW, lambda k, x: k.DepthwiseConv1D(3)(x)),
    ("separable", IMAGE, lambda k, x: k.SeparableConv2D(6, 3, depth_multiplier=2, strides=2, padding="same")(x)),
    ("separable 1d", ROW, lambda k, x: k.SeparableConv1D(6, 3)(x)),
    ("conv transpose same", IMAGE, lambda k, x: k.Conv2DTranspose(3, 3, strides=2, padding="same")(x)),
    ("conv transpose valid", IMAGE, lambda k, x: k.Conv2DTranspose(3, 4, strides=3)(x)),
    ("conv transpose small kernel", IMAGE, lambda k, x: k.Conv2DTranspose(3, 2, strides=3, padding="valid")(x)),
    ("conv transpose 1d", ROW, lambda k, x: k.Conv1DTranspose(3, 3, strides=2, padding="same")(x)),
    ("dense", FEATURES, lambda k, x: k.Dense(5, activation="tanh")(x)),
    ("dense without bias", FEATURES, lambda k, x: k.Dense(5, use_bias=False)(x)),
    ("dense on rows", ROW, lambda k, x: k.Dense(3, activation="softmax")(x)),
    ("dense on an image", IMAGE, lambda k, x: k.Dense(3)(k.Conv2D(4, 1)(x))),
    ("dense after flatten", IMAGE, lambda k, x: k.Dense(3)(k.Flatten()(k.Conv2D(4, 3)(x)))),
    ("batch norm after conv", IMAGE, lambda k, x: k.BatchNormalization()(k.Conv2D(4, 3, use_bias=False)(x))),
    ("batch norm first", IMAGE, lambda k, x: k.Conv2D(4, 3)(k.BatchNormalization(epsilon=0.01)(x))),
    ("batch norm bare", IMAGE, lambda k, x: k.BatchNormalization(center=False, scale=False)(k.Conv2D(4, 3)(x))),
    ("batch norm after flatten", IMAGE, lambda k, x: k.Dense(3)(k.BatchNormalization()(k.Flatten()(k.Conv2D(4, 3)(x))))),
    ("batch norm after dense", FEATURES, lambda k, x: k.BatchNormalization()(k.Dense(5)(x))),
    ("batch norm on rows", ROW, lambda k, x: k.BatchNormalization()(x)),
    ("layer norm", ROW, lambda k, x: k.LayerNormalization()(x)),
    ("layer norm on an image", IMAGE, lambda k, x: k.LayerNormalization(center=False)(k.Conv2D(4, 3)(x))),
    ("unit norm of channels", IMAGE, lambda k, x: k.UnitNormalization(axis=-1)(k.Conv2D(4, 3)(x))),
    ("unit norm over the height", IMAGE, lambda k, x: k.UnitNormalization(axis=1)(k.Conv2D(4, 3)(x))),
    ("unit norm after flatten", IMAGE, lambda k, x: k.UnitNormalization()(k.Flatten()(k.Conv2D(4, 3)(x)))),
    ("relu with limits", IMAGE, lambda k, x: k.ReLU(max_value=1.5, negative_slope=0.1)(x)),
    ("relu 6", IMAGE, lambda k, x: k.ReLU(6.0)(x)),
    ("relu with slope", IMAGE, lambda k, x: k.ReLU(negative_slope=0.2)(x)),
    ("leaky relu", IMAGE, lambda k, x: k.LeakyReLU(0.3)(x)),
    ("elu", IMAGE, lambda k, x: k.ELU(0.7)(x)),
    ("prelu", IMAGE, lambda k, x: k.PReLU()(k.Conv2D(4, 3)(x))),
    ("prelu shared", IMAGE, lambda k, x: k.PReLU(shared_axes=[1, 2])(k.Conv2D(4, 3)(x))),
    ("prelu after flatten", IMAGE, lambda k, x: k.PReLU()(k.Flatten()(k.Conv2D(4, 3)(x)))),
    ("softmax of channels", IMAGE, lambda k, x: k.Softmax()(k.Conv2D(4, 3)(x))),
    ("softmax of rows", IMAGE, lambda k, x: k.Softmax(axis=1)(k.Conv2D(4, 3)(x))),
    ("a layer as activation", FEATURES, lambda k, x: k.Dense(4, activation=k.LeakyReLU(0.1))(x)),
    ("add with broadcast", IMAGE, lambda k, x: k.Add()([k.Conv2D(4, 1)(x), k.GlobalAveragePooling2D(keepdims=True)(x)])),
    ("multiply unlike ranks", IMAGE, lambda k, x: k.Multiply()([x, k.GlobalMaxPooling2D()(x)])),
    ("subtract", IMAGE, lambda k, x: k.Subtract()([k.Conv2D(4, 1)(x), x])),
    ("average of three", IMAGE, lambda k, x: k.Average()([x, k.Conv2D(4, 1)(x), k.ReLU()(x)])),
    ("maximum and minimum", IMAGE, lambda k, x: k.Maximum()([x, k.Minimum()([x, k.Conv2D(4, 1)(x)])])),
    (
        "add of flattened",
        IMAGE,
        lambda k, x: k.Dense(3)(k.Add()([k.Flatten()(k.Conv2D(2, 3)(x)), k.Flatten()(k.Conv2D(2, 3)(x))])),
    ),
    ("concatenate channels", IMAGE, lambda k, x: k.Concatenate()([x, k.Conv2D(3, 1)(x)])),
    ("concatenate rows", IMAGE, lambda k, x: k.Concatenate(axis=1)([x, k.Conv2D(4, 1)(x)])),
    ("concatenate flattened", IMAGE, lambda k, x: k.Concatenate()([k.Flatten()(k.Conv2D(2, 3)(x)), k.Flatten()(x)])),
    ("max pool", IMAGE, lambda k, x: k.MaxPooling2D(2)(x)),
    ("max pool same", IMAGE, lambda k, x: k.MaxPooling2D(3, 2, padding="same")(x)),
    ("average pool same", IMAGE, lambda k, x: k.AveragePooling2D((3, 2), 2, padding="same")(x)),
    ("max pool 1d", ROW, lambda k, x: k.MaxPooling1D(3)(x)),
    ("global average", IMAGE, lambda k, x: k.Dense(2)(k.GlobalAveragePooling2D()(x))),
    ("global max 1d", ROW, lambda k, x: k.GlobalMaxPooling1D(keepdims=True)(x)),
    ("zero padding", IMAGE, lambda k, x: k.Conv2D(3, 3, strides=2)(k.ZeroPadding2D(((1, 2), (0, 1)))(x))),
    ("zero padding 1d", ROW, lambda k, x: k.ZeroPadding1D((2, 1))(x)),
    ("zero padding before max pool", IMAGE, lambda k, x: k.MaxPooling2D(3, 2)(k.ZeroPadding2D(1)(x))),
    ("cropping", IMAGE, lambda k, x: k.Cropping2D(((1, 2), (0, 3)))(x)),
    ("cropping 1d", ROW, lambda k, x: k.Cropping1D(2)(x)),
    ("up sampling nearest", IMAGE, lambda k, x: k.UpSampling2D((2, 3))(x)),
    ("up sampling bilinear", IMAGE, lambda k, x: k.UpSampling2D(2, interpolation="bilinear")(x)),
    ("up sampling 1d", ROW, lambda k, x: k.UpSampling1D(2)(x)),
    ("reshape", IMAGE, lambda k, x: k.Reshape((-1, 6))(k.Conv2D(6, 3)(x))),
    ("reshape to one place", FEATURES, lambda k, x: k.Conv2D(3, 1)(k.Reshape((1, 1, 6))(x))),
    ("permute back and forth", IMAGE, lambda k, x: k.Permute((2, 3, 1))(k.Permute((3, 1, 2))(k.Conv2D(5, 2)(x)))),
    ("permute within", IMAGE, lambda k, x: k.Permute((2, 1, 3))(k.Conv2D(5, 2)(x))),
    ("permute", IMAGE, lambda k, x: k.Permute((3, 1, 2))(k.Conv2D(5, 2)(x))),
    ("repeat vector", FEATURES, lambda k, x: k.RepeatVector(3)(x)),
    ("rescaling", IMAGE, lambda k, x: k.Rescaling(1 / 127.5, offset=-1)(x)),
    ("normalization", IMAGE, lambda k, x: k.Normalization(mean=[1, 2, 3, 4], variance=[1, 4, 9, 16])(x)),
    ("normalization inverted", IMAGE, lambda k, x: k.Normalization(mean=[1, 2, 3, 4], variance=[1, 4, 9, 16], invert=True)(x)),
    ("only in training", IMAGE, lambda k, x: k.Dense(3)(k.Dropout(0.5)(k.GaussianNoise(1.0)(k.SpatialDropout2D(0.5)(x))))),
]


@pytest.mark.parametrize(("shape", "build"), [pytest.param(shape, build, id=name) for name, shape, build in CASES])
def test_a_layer_computes_the_same_in_onnx(shape: tuple[int, ...], build: Build) -> None:
    given = keras().Input(shape)
    model = shaken(keras().Model(given, build(keras().layers, given)))
    batch = noise(3, *shape)
    actual, expected = run_graph(converted(model), batch), run_keras(model, batch)
    assert relative_difference(actual[0], expected[0]) < 1e-5


FREE_SIZE_CASES = [
    ("conv dilated", 2, lambda k, x: k.Conv2D(4, 3, dilation_rate=2, padding="same", activation="relu")(x)),
    ("conv dilated, even kernel", 2, lambda k, x: k.Conv2D(4, (2, 4), dilation_rate=(3, 1), padding="same")(x)),
    ("conv same", 2, lambda k, x: k.Conv2D(4, 4, padding="same")(x)),
    ("conv same stride 2", 2, lambda k, x: k.Conv2D(4, 3, strides=2, padding="same")(x)),
    ("conv 1d dilated", 1, lambda k, x: k.Conv1D(3, 11, dilation_rate=4, padding="same")(x)),
    ("conv 1d causal", 1, lambda k, x: k.Conv1D(3, 3, dilation_rate=4, padding="causal")(x)),
    ("conv 3d dilated", 3, lambda k, x: k.Conv3D(3, 2, dilation_rate=2, padding="same")(x)),
    ("depthwise dilated", 2, lambda k, x: k.DepthwiseConv2D(3, dilation_rate=3, padding="same")(x)),
    ("depthwise 1d dilated", 1, lambda k, x: k.DepthwiseConv1D(3, dilation_rate=3, padding="same")(x)),
    ("separable dilated", 2, lambda k, x: k.SeparableConv2D(5, 3, dilation_rate=2, padding="same")(x)),
    ("separable 1d dilated", 1, lambda k, x: k.SeparableConv1D(5, 3, dilation_rate=2, padding="same")(x)),
    ("max pool", 2, lambda k, x: k.MaxPooling2D(3, 1, padding="same")(x)),
    ("average pool", 2, lambda k, x: k.AveragePooling2D(2, 1, padding="same")(x)),
    ("average pool stride 2", 2, lambda k, x: k.AveragePooling2D(3, 2, padding="same")(x)),
]


@pytest.mark.parametrize(("rank", "build"), [pytest.param(rank, build, id=name) for name, rank, build in FREE_SIZE_CASES])
@pytest.mark.parametrize("size", [8, 13])
def test_a_window_with_padding_computes_the_same_at_any_size(rank: int, build: Build, size: int) -> None:
    given = keras().Input((*[None] * rank, 3))
    model = shaken(keras().Model(given, build(keras().layers, given)))
    batch = noise(2, *[size] * rank, 3)
    actual, expected = run_graph(converted(model), batch), run_keras(model, batch)
    assert relative_difference(actual[0], expected[0]) < 1e-5


ACTIVATIONS = [
    "celu",
    "elu",
    "exponential",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "swish",
    "tanh",
]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_computes_the_same_in_onnx(name: str) -> None:
    layers = keras().layers
    given = keras().Input(IMAGE)
    model = shaken(keras().Model(given, layers.Activation(name)(layers.Conv2D(5, 1)(given))))
    batch = 3 * noise(3, *IMAGE)
    assert relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0]) < 1e-5


def operators(model: Any) -> list[str]:
    return [node.op_type for node in converted(model).graph]


def test_an_image_network_has_one_transpose_at_its_input_and_no_batch_normalization() -> None:
    layers = keras().layers
    given = keras().Input(IMAGE)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(layers.ZeroPadding2D(1)(given))))
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D()(x)))
    x = layers.MaxPooling2D(2)(layers.Multiply()([x, layers.Conv2D(8, 1)(gate)]))
    model = keras().Model(given, layers.Dense(3)(layers.BatchNormalization()(layers.Dense(4)(layers.Flatten()(x)))))
    types = operators(model)
    assert types.count("Transpose") == 1
    assert types[0] == "Transpose"
    assert not {"BatchNormalization", "Pad", "Identity"} & set(types)


def test_a_network_without_images_has_no_transpose() -> None:
    layers = keras().layers
    given = keras().Input((8, 8, 1))
    model = keras().Model(given, layers.Dense(4)(layers.Flatten()(layers.Rescaling(1 / 16)(given))))
    assert operators(model) == ["Mul", "Flatten", "Gemm"]


def test_every_node_has_a_unique_name_that_begins_with_its_layer() -> None:
    layers = keras().layers
    given = keras().Input(IMAGE, name="image")
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    names = [node.name for node in converted(keras().Model(given, shared(shared(given)))).graph]
    assert names[:5] == ["image/Transpose", "shared/Conv", "shared/Relu", "shared/Conv_2", "shared/Relu_2"]
    assert len(set(names)) == len(names)


OPERATIONS = [
    pytest.param(lambda x: x + 3, id="plus"),
    pytest.param(lambda x: 3 - x, id="minus"),
    pytest.param(lambda x: x * (1 / 6) / 2, id="times"),
    pytest.param(lambda x: 1 / (x * x + 1), id="over"),
    pytest.param(lambda x: keras().ops.maximum(x, keras().ops.relu(x) - 1), id="maximum"),
    pytest.param(lambda x: keras().ops.sqrt(keras().ops.exp(-x)), id="exp"),
    pytest.param(lambda x: x + np.arange(5, dtype=np.float32), id="per channel"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_between_layers_computes_the_same_in_onnx(operation: Callable[[Any], Any]) -> None:
    layers = keras().layers
    given = keras().Input(IMAGE)
    model = shaken(keras().Model(given, layers.Flatten()(operation(layers.Conv2D(5, 1)(given)))))
    batch = noise(3, *IMAGE)
    assert relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0]) < 1e-5
