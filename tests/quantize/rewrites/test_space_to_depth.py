"""The space-to-depth rewrite: equal outputs for every geometry, and no additional transposition in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantize.rewrites.space_to_depth import COLUMNS, space_to_depth

Array = npt.NDArray[Any]
HEIGHT = 6
BIAS = ("b", "b_scale", "b_zero")


@dataclass(frozen=True)
class Layer:
    """A quantized first convolution; scales are powers of two, so that float arithmetic on them is exact."""

    width: int = 8
    channels: int = 3
    filters: int = 4
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    bias: bool = True

    @property
    def has_output(self) -> bool:
        rows, columns = ((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))
        return HEIGHT + self.pads[0] + self.pads[2] >= rows and self.width + self.pads[1] + self.pads[3] >= columns

    def model(self) -> onnx.ModelProto:
        random = np.random.default_rng(self.width)
        # Seven bits: x86 processors without VNNI saturate the sums of larger products.
        weight = random.integers(-63, 64, (self.filters, self.channels, *self.kernel)).astype(np.int8)
        scales = np.float32(2.0) ** -random.integers(6, 9, self.filters).astype(np.float32)
        constants = {
            "x_scale": np.float32(2**-4), "x_zero": np.uint8(7), "y_scale": np.float32(2**-1), "y_zero": np.uint8(120),
            "w": weight, "w_scale": scales, "w_zero": np.zeros(self.filters, np.int8),
            "b": random.integers(-900, 900, self.filters).astype(np.int32), "b_scale": scales * np.float32(2**-4),
            "b_zero": np.zeros(self.filters, np.int32),
        }  # fmt: skip
        inputs = ["x_float", "w_float", "b_float"] if self.bias else ["x_float", "w_float"]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_levels"], name="qx"),
            helper.make_node("DequantizeLinear", ["x_levels", "x_scale", "x_zero"], ["x_float"], name="dx"),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], name="dw", axis=0),
            helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_float"], name="db", axis=0),
            helper.make_node(
                "Conv", inputs, ["sum"], name="conv", kernel_shape=self.kernel, strides=self.strides, pads=self.pads,
                dilations=self.dilations,
            ),
            helper.make_node("QuantizeLinear", ["sum", "y_scale", "y_zero"], ["y_levels"], name="qy"),
            helper.make_node("DequantizeLinear", ["y_levels", "y_scale", "y_zero"], ["y"], name="dy"),
        ]  # fmt: skip
        used = {name for node in nodes for name in node.input if self.bias or node.name != "db"}
        graph = helper.make_graph(
            [node for node in nodes if self.bias or node.name != "db"],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", self.channels, HEIGHT, self.width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", self.filters, None, None])],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in used],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def images(self) -> Array:
        return np.random.default_rng(1).uniform(-1, 17, (2, self.channels, HEIGHT, self.width)).astype(np.float32)


def with_float_bias(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same layer with a float bias."""
    levels, scale, _ = (numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == name)) for name in BIAS)
    kept = [node for node in model.graph.node if node.name != "db"]
    constants = [tensor for tensor in model.graph.initializer if tensor.name not in BIAS]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend([*constants, numpy_helper.from_array((levels * scale).astype(np.float32), "b_float")])
    return model


def packed(model: onnx.ModelProto, **limits: float) -> tuple[onnx.ModelProto, int]:
    graph = ir.from_proto(model)
    count = space_to_depth(graph.graph, **limits)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    return made, count


def reference(layer: Layer) -> Array:
    found = ReferenceEvaluator(layer.model()).run(None, {"x": layer.images()})
    assert isinstance(found, list)
    return np.asarray(found[0])


def run(model: onnx.ModelProto, images: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": images})[0]
    return found


def optimized(model: onnx.ModelProto, path: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


layers = st.builds(
    Layer,
    width=st.integers(1, 4).map(lambda groups: groups * COLUMNS),
    channels=st.integers(1, 4),
    filters=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(2, 7)),
    strides=st.tuples(st.integers(1, 2), st.sampled_from([1, 2, 4])),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    bias=st.booleans(),
).filter(lambda layer: layer.has_output)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(layers)
def test_a_packed_layer_has_the_outputs_of_the_onnx_reference_evaluator(layer: Layer) -> None:
    made, _ = packed(layer.model())
    expected = reference(layer)
    np.testing.assert_array_equal(run(made, layer.images()), expected)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(Layer(width=16, strides=(2, 2), pads=(0, 0, 1, 1)), id="3x3 at stride 2, as in MobileNet"),
        pytest.param(Layer(width=16, kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3)), id="7x7 at stride 2, as in ResNet"),
        pytest.param(Layer(width=16), id="3x3 at stride 1, as in VGG"),
        pytest.param(Layer(width=16, channels=1, bias=False), id="one channel, no bias"),
    ],
)
def test_the_first_layers_of_common_networks_are_packed_without_additional_transpositions(layer: Layer, tmp_path: Path) -> None:
    made, count = packed(layer.model())
    assert count == 1
    before, after = (optimized(model, tmp_path / f"{place}.onnx") for place, model in enumerate((layer.model(), made)))
    assert sorted(set(after) - {"Reshape"}) == sorted(set(before))
    assert after.count("Transpose") == before.count("Transpose")
    assert after.count("QuantizeLinear") == before.count("QuantizeLinear")


def test_a_float_bias_is_packed() -> None:
    layer = Layer(width=16)
    made, count = packed(with_float_bias(layer.model()))
    assert count == 1
    assert {tensor.name for tensor in made.graph.initializer} <= {name for node in made.graph.node for name in node.input}
    np.testing.assert_array_equal(run(made, layer.images()), reference(layer))


def test_a_kernel_that_would_make_the_file_much_larger_is_not_packed() -> None:
    assert packed(Layer(width=16).model(), largest_share=1 / 64)[1] == 0


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(Layer(channels=5), id="many channels"),
        pytest.param(Layer(kernel=(1, 1), pads=(0, 0, 0, 0)), id="a single pixel"),
        pytest.param(Layer(width=10), id="a width that is not a multiple"),
        pytest.param(Layer(pads=(0, 0, 0, 0)), id="an output that is not a multiple"),
        pytest.param(Layer(strides=(1, 3)), id="a stride that does not divide a group"),
    ],
)
def test_an_unsupported_geometry_stays_unchanged(layer: Layer) -> None:
    made, count = packed(layer.model())
    assert count == 0
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in layer.model().graph.node]


def test_a_float_convolution_stays_unchanged() -> None:
    model = layer_in_float()
    assert packed(model)[1] == 0


def layer_in_float() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_no_unused_constant_remains() -> None:
    made, _ = packed(Layer(width=16).model())
    read = {name for node in made.graph.node for name in node.input}
    assert {tensor.name for tensor in made.graph.initializer} <= read


def test_a_constant_that_another_layer_reads_too_stays_unchanged_for_that_layer() -> None:
    layer = Layer(width=16)
    model = layer.model()
    levels = numpy_helper.from_array(np.arange(layer.filters, dtype=np.int8), "other")
    model.graph.initializer.append(levels)
    model.graph.node.append(helper.make_node("DequantizeLinear", ["other", "w_scale", "w_zero"], ["z"], name="dz", axis=0))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [layer.filters]))
    made, count = packed(model)
    assert count == 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(["y", "z"], {"x": layer.images()})
    np.testing.assert_array_equal(y, reference(layer))
    scales = numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == "w_scale"))
    np.testing.assert_array_equal(z, np.arange(layer.filters) * scales)
