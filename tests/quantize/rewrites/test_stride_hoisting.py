"""Stride hoisting: the outputs stay the same with fewer multiplications."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantize.rewrites.stride_hoisting import hoist_strides

Array = npt.NDArray[Any]
CHANNELS = 3


class Network:
    """A builder of networks; every convolution has random weights."""

    def __init__(self, height: int, width: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.size = (height, width)

    def conv(self, source: str, name: str, kernel: int, strides: tuple[int, int] = (1, 1)) -> str:
        weight = np.random.default_rng(len(self.nodes)).normal(0, 0.5, (CHANNELS, CHANNELS, kernel, kernel))
        self.weights.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}_w"))
        pad = kernel // 2
        return self.node("Conv", [source, f"{name}_w"], name, kernel_shape=[kernel, kernel], strides=strides, pads=[pad] * 4)

    def node(self, operator: str, sources: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, sources, [name], name=name, **attributes))
        return name

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, *self.size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CHANNELS, None, None]) for name in outputs],
            self.weights,
        )
        plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(plain)

    def images(self) -> Array:
        return np.random.default_rng(0).normal(size=(2, CHANNELS, *self.size)).astype(np.float32)


def bottleneck(height: int = 9, width: int = 8, kernel: int = 3, strides: tuple[int, int] = (2, 2)) -> Network:
    """Return the end of a stage and the beginning of the next, as in ResNet."""
    network = Network(height, width)
    before = network.node("Relu", [network.conv("x", "stem", 3)], "before")
    inner = network.node("Relu", [network.conv(before, "inner", kernel)], "inner_relu")
    network.node("Add", [before, network.conv(inner, "outer", 1)], "sum")
    network.node("Relu", ["sum"], "after")
    network.conv("after", "shortcut", 1, strides)
    network.node("Relu", [network.conv("after", "first", 1, strides)], "first_relu")
    network.node("Add", ["shortcut", network.conv("first_relu", "second", 3)], "end")
    return network


def multiplications(model: onnx.ModelProto, images: Array) -> int:
    """Count the multiplications with the actual shapes."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    del watched.graph.output[:]
    watched.graph.output.extend([onnx.ValueInfoProto(name=node.output[0]) for node in convolutions])
    sizes = [array.size for array in evaluated(watched, images)]
    weights = {tensor.name: math.prod(tensor.dims[1:]) for tensor in model.graph.initializer}
    return sum(size * weights[node.input[1]] for size, node in zip(sizes, convolutions, strict=True))


def evaluated(model: onnx.ModelProto, images: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, {"x": images})
    return found


def strided(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    count = hoist_strides(changed)
    onnx.checker.check_model(changed, full_check=True)
    return changed, count


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        bottleneck,
        height=st.integers(2, 12),
        width=st.integers(2, 12),
        kernel=st.sampled_from([1, 3, 5]),
        strides=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    )
)
def test_a_residual_network_has_the_same_outputs_with_fewer_multiplications(network: Network) -> None:
    model, images = network.model("end"), network.images()
    changed, count = strided(model)
    expected = ReferenceEvaluator(model).run(None, {"x": images})
    assert isinstance(expected, list)
    np.testing.assert_allclose(evaluated(changed, images)[0], expected[0], rtol=1e-4, atol=1e-4)
    assert count >= 1
    assert multiplications(changed, images) < multiplications(model, images)


def test_a_stride_is_hoisted_over_several_layers_and_fully_read_tensors_are_subsampled() -> None:
    changed, _ = strided(bottleneck().model("end"))
    strides = {
        node.name: list(attribute.ints)
        for node in changed.graph.node
        for attribute in node.attribute
        if attribute.name == "strides"
    }
    assert strides == {
        "stem": [1, 1], "before/every_2x2": [2, 2], "inner": [2, 2], "outer": [1, 1], "shortcut": [1, 1], "first": [1, 1],
        "second": [1, 1],
    }  # fmt: skip


def pooled() -> onnx.ModelProto:
    network = Network(8, 8)
    network.node("MaxPool", ["x"], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    network.conv("pool", "end", 1, (2, 2))
    return network.model("end")


def read_twice() -> onnx.ModelProto:
    network = Network(8, 8)
    network.conv("x", "stem", 3)
    network.conv("stem", "one", 1, (2, 2))
    network.conv("stem", "other", 3, (2, 2))
    return network.model("one", "other")


def shown() -> onnx.ModelProto:
    network = Network(8, 8)
    network.conv("x", "stem", 3)
    network.conv("stem", "end", 1, (2, 2))
    return network.model("end", "stem")


def reshaped() -> onnx.ModelProto:
    network = Network(8, 8)
    network.node("Transpose", [network.conv("x", "stem", 3)], "turned", perm=[0, 1, 3, 2])
    network.conv("turned", "end", 1, (2, 2))
    return network.model("end")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(pooled(), id="no convolution would do less"),
        pytest.param(read_twice(), id="another reader needs all"),
        pytest.param(shown(), id="an output of the network"),
        pytest.param(reshaped(), id="an operator that moves pixels"),
    ],
)
def test_without_savings_the_graph_stays_unchanged(model: onnx.ModelProto) -> None:
    changed, count = strided(model)
    assert count == 0
    assert changed == model
