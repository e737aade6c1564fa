"""A law over generated networks: converted = source, whatever the shapes, strides, paddings and branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.convert.networks import converted, keras, noise, relative_difference, run_graph, run_keras, shaken

KINDS = ("conv", "dilated", "depthwise", "max", "average", "norm", "activation", "branch", "join", "pad", "up")


@dataclass(frozen=True)
class Step:
    """One layer of a generated network; a kind uses what it needs of the rest."""

    kind: str
    kernel: tuple[int, int]
    padding: str
    stride: int
    number: int
    activation: str


STEPS = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["same", "valid"]),
    stride=st.integers(1, 3),
    number=st.integers(1, 5),
    activation=st.sampled_from(["relu", "relu6", "tanh", "silu", "hard_sigmoid"]),
)
SHAPES = st.tuples(st.integers(5, 13), st.integers(5, 13), st.integers(1, 4))


def grown(step: Step, x: Any) -> Any:
    layers = keras().layers
    smallest = min(x.shape[1:3])
    kernel = tuple(min(size, smallest) for size in step.kernel)
    grow = {
        "conv": lambda: layers.Conv2D(step.number, kernel, strides=step.stride, padding=step.padding)(x),
        "dilated": lambda: layers.Conv2D(3, kernel, dilation_rate=2, padding="same")(x),
        "depthwise": lambda: layers.DepthwiseConv2D(
            kernel, strides=step.stride, padding=step.padding, depth_multiplier=1 + step.number % 2
        )(x),
        "max": lambda: layers.MaxPooling2D(kernel, step.stride, padding=step.padding)(x),
        "average": lambda: layers.AveragePooling2D(kernel, step.stride, padding=step.padding)(x),
        "norm": lambda: layers.BatchNormalization()(x),
        "activation": lambda: layers.Activation(step.activation)(x),
        "branch": lambda: layers.Concatenate()([x, layers.Conv2D(2, kernel, padding="same")(x)]),
        "join": lambda: layers.Add()([x, layers.Conv2D(x.shape[-1], kernel, padding="same")(x)]),
        "pad": lambda: layers.ZeroPadding2D(((step.number % 3, 1), (0, step.stride)))(x),
        "up": lambda: layers.UpSampling2D((1, 2))(x),
    }
    return grow[step.kind]()


@given(shape=SHAPES, steps=st.lists(STEPS, min_size=1, max_size=5), flat=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_small_network_says_the_same_in_onnx(shape: tuple[int, int, int], steps: list[Step], flat: bool) -> None:
    layers = keras().layers
    x = image = keras().Input(shape)
    for step in steps:
        x = grown(step, x)
    x = layers.Flatten()(x) if flat else layers.GlobalAveragePooling2D()(x)
    model = shaken(keras().Model(image, layers.Dense(3)(x)))
    batch = noise(2, *shape)
    assert relative_difference(run_graph(converted(model), batch)[0], run_keras(model, batch)[0]) < 1e-5
