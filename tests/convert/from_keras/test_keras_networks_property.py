"""Law: a converted network computes the same as its source, for generated layers, shapes, strides, dilations and branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.convert_networks import converted, keras, noise, relative_difference, run_graph, run_keras, shaken


@dataclass(frozen=True)
class Step:
    """One layer of a generated network; each kind uses some of the settings."""

    kind: str
    kernel: tuple[int, int, int]
    padding: str
    stride: int
    number: int
    activation: str


Grow = Callable[[Any, Step, Any], Any]
"""Keras's layers, the step, the current tensor -> the next tensor."""


def kernel(step: Step, x: Any) -> tuple[int, ...]:
    """Return one kernel size per axis of the image, at most the image's size."""
    return tuple(min(size, *x.shape[1:-1]) for size in step.kernel[: len(x.shape) - 2])


def of_rank(layers: Any, name: str, x: Any) -> Any:
    return getattr(layers, f"{name}{len(x.shape) - 2}D")


def per_axis(x: Any, one: Any) -> Any:
    """Return a setting for each axis of the image; 1-D layers take a plain number."""
    axes = len(x.shape) - 2
    return one if axes == 1 else tuple(one for _ in range(axes))


def convolution(layers: Any, step: Step, x: Any, **settings: Any) -> Any:
    return of_rank(layers, "Conv", x)(step.number, kernel(step, x), padding=step.padding, **settings)(x)


def pooling(name: str) -> Grow:
    return lambda layers, step, x: of_rank(layers, name, x)(kernel(step, x), step.stride, padding=step.padding)(x)


def merging(name: str) -> Grow:
    return lambda layers, step, x: getattr(layers, name)()(
        [x, of_rank(layers, "Conv", x)(x.shape[-1], kernel(step, x), padding="same", activation=step.activation)(x)]
    )


EVERY_RANK: dict[str, Grow] = {
    "convolution": lambda layers, step, x: convolution(layers, step, x, strides=step.stride),
    "convolution with holes": lambda layers, step, x: of_rank(layers, "Conv", x)(
        3, kernel(step, x), dilation_rate=1 + step.stride, padding="same", activation=step.activation
    )(x),
    "grouped convolution": lambda layers, step, x: of_rank(layers, "Conv", x)(
        2 * x.shape[-1], kernel(step, x), groups=x.shape[-1], padding=step.padding, use_bias=False
    )(x),
    "largest": pooling("MaxPooling"),
    "average": pooling("AveragePooling"),
    "batch norm": lambda layers, step, x: layers.BatchNormalization(scale=step.number % 2 == 0, center=step.stride > 1)(x),
    "layer norm": lambda layers, _, x: layers.LayerNormalization()(x),
    "activation": lambda layers, step, x: layers.Activation(step.activation)(x),
    "slope per place": lambda layers, _, x: layers.PReLU()(x),
    "softmax": lambda layers, _, x: layers.Softmax()(x) if x.shape[-1] > 1 else x,
    "rescaling": lambda layers, step, x: layers.Rescaling(1 / step.number, offset=0.5)(x),
    "dense": lambda layers, step, x: layers.Dense(step.number, activation=step.activation)(x),
    "padding": lambda layers, step, x: of_rank(layers, "ZeroPadding", x)(per_axis(x, (step.number % 3, step.stride)))(x),
    "padding, then convolution": lambda layers, step, x: convolution(
        layers, step, of_rank(layers, "ZeroPadding", x)(per_axis(x, (step.stride, step.number % 4)))(x), strides=step.stride
    ),
    "cropping": lambda layers, step, x: of_rank(layers, "Cropping", x)(per_axis(x, (0, int(min(x.shape[1:-1]) > 2))))(x),
    "larger": lambda layers, step, x: of_rank(layers, "UpSampling", x)(2)(x),
    "sum": merging("Add"),
    "difference": merging("Subtract"),
    "product": merging("Multiply"),
    "maximum": merging("Maximum"),
    "minimum": merging("Minimum"),
    "mean": merging("Average"),
    "branch": merging("Concatenate"),
    "folded and unfolded": lambda layers, _, x: layers.Reshape(tuple(x.shape[1:]))(layers.Flatten()(x)),
}
FLAT_IMAGES: dict[str, Grow] = {
    "depthwise": lambda layers, step, x: of_rank(layers, "DepthwiseConv", x)(
        per_axis(x, kernel(step, x)[0]), strides=step.stride, padding=step.padding, depth_multiplier=1 + step.number % 2
    )(x),
    "separable": lambda layers, step, x: of_rank(layers, "SeparableConv", x)(
        step.number, per_axis(x, kernel(step, x)[0]), padding=step.padding, activation=step.activation
    )(x),
    "transposed": lambda layers, step, x: getattr(layers, f"Conv{len(x.shape) - 2}DTranspose")(
        step.number, kernel(step, x), strides=step.stride, padding=step.padding
    )(x),
    "turned": lambda layers, _, x: layers.Permute(tuple(range(len(x.shape) - 1, 0, -1)))(x),
}
KINDS = {1: {**EVERY_RANK, **FLAT_IMAGES}, 2: {**EVERY_RANK, **FLAT_IMAGES}, 3: EVERY_RANK}


def steps(rank: int) -> st.SearchStrategy[list[Step]]:
    one = st.builds(
        Step,
        kind=st.sampled_from(sorted(KINDS[rank])),
        kernel=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
        padding=st.sampled_from(["same", "valid"]),
        stride=st.integers(1, 3 if rank < 3 else 2),  # larger strides over volumes are rejected
        number=st.integers(1, 5),
        activation=st.sampled_from(["relu", "relu6", "tanh", "silu", "hard_sigmoid", "leaky_relu", "elu", "softplus"]),
    )
    return st.lists(one, min_size=1, max_size=5)


SMALL_ENOUGH = 4_000
QUICKLY = (Phase.generate,)
"""No shrinking of failing networks, which would take minutes."""


def check(shape: tuple[int, ...], chosen: list[Step], *, flat: bool) -> None:
    layers, rank = keras().layers, len(shape) - 1
    x = image = keras().Input(shape)
    for step in chosen:
        grown = KINDS[rank][step.kind](layers, step, x)
        size = 1
        for axis in grown.shape[1:]:
            size *= axis
        x = grown if 0 < size < SMALL_ENOUGH else x
    x = layers.Flatten()(x) if flat else of_rank(layers, "GlobalAveragePooling", x)()(x)
    model = shaken(keras().Model(image, layers.Dense(3)(x)))
    batch = noise(2, *shape)
    assert relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0]) < 2e-5


@given(shape=st.tuples(st.integers(5, 13), st.integers(5, 13), st.integers(1, 4)), chosen=steps(2), flat=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True, phases=QUICKLY)
def test_any_small_network_over_images_computes_the_same(shape: tuple[int, ...], chosen: list[Step], flat: bool) -> None:
    check(shape, chosen, flat=flat)


@given(shape=st.tuples(st.integers(4, 17), st.integers(1, 4)), chosen=steps(1), flat=st.booleans())
@settings(max_examples=20, deadline=None, derandomize=True, phases=QUICKLY)
def test_any_small_network_over_series_computes_the_same(shape: tuple[int, ...], chosen: list[Step], flat: bool) -> None:
    check(shape, chosen, flat=flat)


@given(shape=st.tuples(*[st.integers(3, 6)] * 3, st.integers(1, 3)), chosen=steps(3), flat=st.booleans())
@settings(max_examples=10, deadline=None, derandomize=True, phases=QUICKLY)
def test_any_small_network_over_volumes_computes_the_same(shape: tuple[int, ...], chosen: list[Step], flat: bool) -> None:
    check(shape, chosen, flat=flat)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(shape=st.tuples(st.integers(5, 17), st.integers(5, 17), st.integers(1, 4)), chosen=steps(2), flat=st.booleans())
@settings(max_examples=600, deadline=None, derandomize=True, phases=QUICKLY)
def test_hundreds_of_networks_over_images_compute_the_same(shape: tuple[int, ...], chosen: list[Step], flat: bool) -> None:
    check(shape, chosen, flat=flat)
