"""Every operator of TensorFlow Lite that has a rule computes the same in ONNX, in float and with integers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from convert.from_tflite.reader import RULES
from tests.support.convert_networks import noise, relative_difference
from tests.support.tflite_files import Array, Function, outputs_of, tensorflow, tflite, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own warnings
tf: Any = tensorflow()
nn = tf.nn
IMAGE, WIDE, ROWS, VECTOR, VOLUME = (8, 6, 3), (4, 4, 8), (5, 6), (7,), (4, 5, 6, 2)
ONE_STEP = 0.02
"""About two steps of 8-bit integers, relative to the largest output."""


def filtered(x: Any) -> Any:
    """Return an image that the graph holds in channels-first order."""
    return nn.depthwise_conv2d(x, weights(2, 2, 3, 1), [1, 1, 1, 1], "SAME")


def norm(x: Any) -> Any:
    centred = tf.math.squared_difference(x, tf.reduce_mean(x, -1, keepdims=True))
    return x * tf.math.rsqrt(tf.reduce_mean(centred, -1, keepdims=True) + 1e-2)


CONVOLUTIONS: dict[str, Function] = {
    "same, strides, relu6": lambda x: nn.relu6(nn.conv2d(x, weights(3, 3, 3, 4), 2, "SAME") + weights(4)),
    "valid, dilated": lambda x: nn.conv2d(x, weights(3, 3, 3, 4), 1, "VALID", dilations=2),
    "same, dilated": lambda x: nn.conv2d(x, weights(3, 3, 3, 4), 1, "SAME", dilations=2) + weights(4),
    "even kernel": lambda x: nn.relu(nn.conv2d(x, weights(2, 4, 3, 4), [1, 2, 1, 1], "SAME") + weights(4)),
    "depthwise, multiplier 2": lambda x: nn.depthwise_conv2d(x, weights(3, 3, 3, 2), [1, 2, 2, 1], "SAME") + weights(6),
    "depthwise, dilated": lambda x: nn.depthwise_conv2d(x, weights(3, 3, 3, 1), [1, 1, 1, 1], "SAME", dilations=[2, 2]),
    "transposed, same": lambda x: nn.conv2d_transpose(x, weights(3, 3, 5, 3), (1, 16, 12, 5), 2, "SAME") + weights(5),
    "transposed, valid": lambda x: nn.conv2d_transpose(x, weights(3, 2, 5, 3), (1, 17, 12, 5), 2, "VALID"),
    "transposed, strides 3": lambda x: nn.conv2d_transpose(x, weights(4, 4, 5, 3), (1, 24, 18, 5), 3, "SAME"),
    "average, same": lambda x: nn.avg_pool2d(x, 3, 2, "SAME"),
    "average, valid": lambda x: nn.avg_pool2d(x, 2, 2, "VALID"),
    "maximum, same": lambda x: nn.max_pool2d(x, 3, 2, "SAME"),
    "after padding": lambda x: nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), weights(3, 3, 3, 4), 2, "VALID"),
}
ELEMENTS: dict[str, Function] = {
    "add": lambda x: nn.relu(filtered(x) + x),
    "add, constant per channel": lambda x: filtered(x) + weights(3),
    "multiply, constant per pixel": lambda x: filtered(x) * weights(6, 1),
    "subtract from constant": lambda x: weights(3) - x,
    "divide": lambda x: x / (tf.abs(weights(3)) + 1.0),
    "maximum": lambda x: tf.maximum(filtered(x), weights(3)),
    "minimum": lambda x: tf.minimum(x, weights(3)),
    "squared difference": lambda x: tf.math.squared_difference(filtered(x), weights(3)),
    "exp": tf.exp,
    "log": lambda x: tf.math.log(tf.abs(x) + 1.0),
    "sqrt": lambda x: tf.sqrt(tf.abs(x)),
    "rsqrt": lambda x: tf.math.rsqrt(tf.abs(x) + 0.5),
    "sin, cos": lambda x: tf.sin(x) + tf.cos(x),
    "neg, abs": lambda x: tf.abs(x) - (-x),
    "square": lambda x: tf.square(x),
    "logistic": lambda x: tf.sigmoid(filtered(x)),
    "tanh": lambda x: tf.tanh(x),
    "relu": lambda x: nn.relu(x),
    "leaky relu": lambda x: nn.leaky_relu(filtered(x), 0.1),
    "elu": lambda x: nn.elu(x),
    "hard swish": lambda x: x * nn.relu6(x + 3.0) / 6.0,
    "gelu": lambda x: nn.gelu(x),
    "prelu": lambda x: tf.maximum(x, 0.0) + weights(3) * -nn.relu(-x),
    "softmax": lambda x: nn.softmax(filtered(x)),
    "log softmax": lambda x: nn.log_softmax(x),
    "l2 norm": lambda x: nn.l2_normalize(x, -1),
    "concatenate channels": lambda x: tf.concat([filtered(x), x], -1),
    "concatenate rows": lambda x: tf.concat([filtered(x), x], 1),
    "mean": lambda x: tf.reduce_mean(filtered(x), [1, 2]),
    "mean, kept axes": lambda x: tf.reduce_mean(filtered(x), [1, 2], keepdims=True),
    "mean of channels": lambda x: tf.reduce_mean(filtered(x), [-1]),
    "sum": lambda x: tf.reduce_sum(x, [1]),
    "largest": lambda x: tf.reduce_max(filtered(x), [1, 2]),
    "smallest": lambda x: tf.reduce_min(x, [3]),
}
STEPS: dict[str, Function] = {
    "floor division": lambda x: tf.math.floordiv(x, 0.7),
    "floor remainder": lambda x: tf.math.floormod(x, 0.7),
    "power": lambda x: tf.pow(tf.abs(x), 1.5),
    "floor, ceil, round": lambda x: tf.floor(x) + 2.0 * tf.math.ceil(x) + 5.0 * tf.round(x),
    "sign": lambda x: tf.sign(x),
    "product": lambda x: tf.reduce_prod(x, [1]),
    "cast to integers": lambda x: tf.cast(x * 5.0, tf.int32),
    "compare": lambda x: tf.logical_and(x >= 0.0, tf.logical_not(x < 0.5)),
    "not equal": lambda x: tf.not_equal(tf.round(x), 0.0),
    "select": lambda x: tf.where(x > 0.2, x, -x),
    "any": lambda x: tf.reduce_any(x > 1.0, 1),
    "all": lambda x: tf.reduce_all(x > -1.0, 1),
    "arg max": lambda x: tf.argmax(x, -1),
    "arg min": lambda x: tf.argmin(x, -1, output_type=tf.int32),
    "one hot": lambda x: tf.one_hot(tf.cast(tf.abs(x), tf.int32), 4),
    "cumulative sum": lambda x: tf.cumsum(x, 1),
    "gather per sample": lambda x: tf.gather(x, tf.argmax(x, -1), axis=1, batch_dims=1),
}
RANKS: dict[str, Function] = {
    "largest values": lambda x: tf.math.top_k(x, 3)[0],
    "places of the largest values": lambda x: tf.math.top_k(tf.round(x), 2)[1],
}
VOLUMES: dict[str, Function] = {
    "volumes, same": lambda x: nn.relu(nn.conv3d(x, weights(2, 3, 3, 2, 4), [1] * 5, "SAME") + weights(4)),
    "volumes, strides": lambda x: nn.conv3d(x, weights(2, 3, 2, 2, 4), [1, 2, 1, 2, 1], "SAME"),
    "volumes, valid": lambda x: nn.conv3d(x, weights(2, 3, 2, 2, 4), [1] * 5, "VALID"),
}
IMAGES: dict[str, Function] = {
    "bilinear": lambda x: tf.compat.v1.image.resize_bilinear(x, (13, 5)),
    "bilinear, half pixels": lambda x: tf.image.resize(x, (13, 5)),
    "bilinear, corners": lambda x: tf.compat.v1.image.resize_bilinear(x, (13, 5), align_corners=True),
    "nearest": lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (13, 5)),
    "nearest, half pixels": lambda x: tf.image.resize(x, (13, 5), method="nearest"),
    "nearest, corners": lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, (13, 5), align_corners=True),
    "nearest, twice": lambda x: tf.image.resize(x, (8, 8), method="nearest"),
    "space to depth": lambda x: nn.space_to_depth(x, 2),
    "depth to space": lambda x: nn.depth_to_space(x, 2),
    "blocks": lambda x: tf.batch_to_space(
        tf.space_to_batch(x, [2, 2], [[2, 2], [2, 2]]) + 1.0, [2, 2], [[2, 1], [0, 2]]
    ),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]),
    "pad with a value": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=0.5),
    "reflect": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], "REFLECT"),
    "mirror": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], "SYMMETRIC"),
}  # fmt: skip
SHAPES: dict[str, Function] = {
    "fully connected": lambda x: nn.relu(tf.matmul(x, weights(6, 5)) + weights(5)),
    "flatten": lambda x: tf.matmul(tf.reshape(x, (-1, 30)), weights(30, 4)) + weights(4),
    "flatten by shape": lambda x: tf.reshape(x, (tf.shape(x)[0], 30)),
    "attention": lambda x: tf.matmul(nn.softmax(tf.matmul(x, x * 0.3, transpose_b=True)), x),
    "product of columns": lambda x: tf.matmul(x, x + 1.0, transpose_a=True),
    "layer norm": norm,
    "transpose": lambda x: tf.transpose(x, (0, 2, 1)),
    "expand, squeeze": lambda x: tf.squeeze(tf.expand_dims(x, 1) * weights(6), [1]),
    "strided slice": lambda x: x[:, 1:-1:2, ::-1],
    "last row": lambda x: x[:, -1],
    "slice": lambda x: tf.slice(x, [0, 1, 2], [-1, 3, -1]),
    "new axis": lambda x: x[:, None, 1:],
    "split": lambda x: tf.split(x, 2, 2)[1] - tf.split(x, 2, 2)[0],
    "split by sizes": lambda x: tf.concat(tf.split(x, [3, 2], 1)[::-1], 1),
    "pack": lambda x: tf.stack([x, x * 2.0], 1),
    "unpack": lambda x: tf.unstack(x, axis=1)[2] + 1.0,
    "gather": lambda x: tf.gather(x, [3, 1], axis=1),
    "tile": lambda x: tf.tile(x, [1, 2, 3]),
    "reverse": lambda x: tf.reverse(x, [1, 2]),
}
GROUPS: dict[str, tuple[tuple[int, ...], dict[str, Function]]] = {
    "convolutions": (IMAGE, CONVOLUTIONS),
    "elements": (IMAGE, ELEMENTS),
    "steps": (VECTOR, STEPS),
    "ranks": (ROWS, RANKS),
    "volumes": (VOLUME, VOLUMES),
    "images": (WIDE, IMAGES),
    "shapes": (ROWS, SHAPES),
}
Outputs = dict[str, tuple[Array, Array, Array]]


@functools.cache
def outputs(group: str, mode: str) -> Outputs:
    """Return what the graph, the interpreter and TensorFlow compute for each function of a group, from one file."""
    shape, functions = GROUPS[group]
    content = tflite(lambda x: [function(x) for function in functions.values()], shape, mode)
    inputs = noise(4, *shape, seed=1)
    graph, interpreter = outputs_of(content, inputs)
    exact = [np.concatenate([function(inputs[at : at + 1]) for at in range(4)]) for function in functions.values()]
    return dict(zip(functions, zip(graph, interpreter, exact, strict=True), strict=True))


def cases(*groups: str) -> list[Any]:
    return [pytest.param(group, name, id=f"{group}: {name}") for group in groups for name in GROUPS[group][1]]


@pytest.mark.parametrize(("group", "name"), cases(*GROUPS))
def test_a_float_operator_computes_the_same_as_tensorflow(group: str, name: str) -> None:
    graph, interpreter, exact = outputs(group, "float")[name]
    assert graph.dtype == interpreter.dtype
    assert relative_difference(graph.astype(float), interpreter.astype(float)) < 1e-5
    assert relative_difference(graph.astype(float), exact.astype(float)) < 1e-5


PRODUCTS = {"attention", "product of columns"}
"""XNNPACK ignores zero points in some products of two quantized tensors; the reference kernels do not."""


@pytest.mark.parametrize(
    ("group", "name"),
    [
        case
        for case in cases("convolutions", "elements", "images", "shapes", "ranks", "volumes")
        if case.values[1] not in PRODUCTS
    ],
)
def test_an_integer_operator_computes_the_same_as_the_interpreter(group: str, name: str) -> None:
    graph, interpreter, _exact = outputs(group, "int8")[name]
    assert relative_difference(graph, interpreter) < ONE_STEP


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_a_product_of_integers_is_near_the_exact_one(name: str) -> None:
    graph, _interpreter, exact = outputs("shapes", "int8")[name]
    assert relative_difference(graph, exact) < 0.05


def test_the_operators_of_mlperf_tiny_and_mediapipe_have_rules() -> None:
    classes = """CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED ADD MUL SUB DIV AVERAGE_POOL_2D MAX_POOL_2D MEAN PAD PADV2 RESHAPE
    SOFTMAX LOGISTIC TANH RELU RELU6 PRELU LEAKY_RELU HARD_SWISH CONCATENATION QUANTIZE DEQUANTIZE TRANSPOSE_CONV RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR TRANSPOSE SQUEEZE STRIDED_SLICE SLICE SPLIT PACK UNPACK GATHER CAST BATCH_MATMUL SHAPE MAXIMUM
    MINIMUM EXP RSQRT SQUARED_DIFFERENCE SUM ARG_MAX SPACE_TO_DEPTH DEPTH_TO_SPACE TOPK_V2 CONV_3D"""
    assert set(classes.split()) <= set(RULES)
