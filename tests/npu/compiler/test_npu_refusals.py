"""Errors for unsupported constants of quantized graphs, and for models that do not fit the NPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType

from accel.npu.compiler.compile import compile_model
from accel.npu.machines.host import Session
from accel.npu.model.functional_model import FunctionalModel
from benchmarks.networks.npu_networks import INPUT, Network, quantize
from edgewright.errors import ModelError
from tests.npu.compiler.test_npu_compiler import PROFILE, steps_apart


def test_scales_that_are_too_far_apart_are_refused_with_their_layer() -> None:
    quantized = changed_constant("conv_0_scale", lambda values: np.full_like(values, 1e-20))
    with pytest.raises(ModelError, match=r"^layer conv_0: a rescale of .* exceeds 2\^30; its scales are too far apart"):
        compile_model(quantized, PROFILE)


def test_a_scale_of_zero_is_refused_with_the_reason() -> None:
    quantized = changed_constant("conv_0_scale", np.zeros_like)
    with pytest.raises(ModelError, match=r"conv_0 \(Conv\): its scale must be a positive number, not 0.0"):
        compile_model(quantized, PROFILE)


def test_a_graph_that_is_not_quantized_is_refused() -> None:
    network = Network(3, 9, 11)
    with pytest.raises(ModelError, match=r"^the NPU runs quantized graphs, but this one has no QuantizeLinear: quantize it"):
        compile_model(network.model(network.conv(INPUT, 3, 4)), PROFILE)


def test_n1_uint8_activations_are_compiled_as_int8_minus_128() -> None:
    network = Network(3, 9, 11)
    model = network.model(network.add("Relu", network.conv(INPUT, 3, 4, pads=[1, 1, 1, 1])))
    images = network.images(20)
    quantized = quantize(model, images, activation_type=QuantType.QUInt8)
    assert np.abs(steps_apart(compile_model(quantized, PROFILE), quantized, images, PROFILE)).max() <= 1


def test_a_graph_with_int16_activations_is_refused_with_the_reason() -> None:
    quantized = changed_constant("image_zero_point", lambda values: values.astype(np.int16), onnx.TensorProto.INT16)
    quantized.opset_import[0].version = 21
    with pytest.raises(
        ModelError, match=r"but none can: .* its activations are int16; the NPU supports int8 and uint8; conv_0 \(Conv\):"
    ):
        compile_model(quantized, PROFILE)


def test_a_graph_with_asymmetric_weights_is_refused_with_the_reason() -> None:
    quantized = changed_constant("constant_0_zero_point", lambda values: np.full_like(values, 3))
    with pytest.raises(
        ModelError, match=r"conv_0 \(Conv\): its weights are int8 with zero points up to 3; the NPU supports symmetric"
    ):
        compile_model(quantized, PROFILE)


def test_n2_a_weight_of_minus_128_is_refused_with_its_layer() -> None:
    quantized = changed_constant("constant_0_quantized", lambda values: np.full_like(values, -128))
    with pytest.raises(ModelError, match=r"^layer conv_0: weights must be between -127 and 127, but one is -128; quantize with"):
        compile_model(quantized, PROFILE)


def test_n4_an_accumulator_that_could_overflow_is_refused_with_its_layer() -> None:
    quantized = changed_constant("constant_1_quantized", lambda values: np.full_like(values, (1 << 31) - 1000))
    with pytest.raises(ModelError, match=r"^layer conv_0: the sums of output channel \d must stay below 2\^31, but could reach"):
        compile_model(quantized, PROFILE)


def test_activations_that_do_not_fit_are_refused_with_the_tensor() -> None:
    network = Network(3, 64, 64)
    model = network.model(network.conv(INPUT, 3, 12, pads=[1, 1, 1, 1]))
    with pytest.raises(
        ModelError,
        match=r"^the activations must fit 4096 vectors of 4 bytes on npu-sim-4, but with the result of layer conv_0 \(",
    ):
        compile_model(quantize(model, network.images(2)), PROFILE)


def test_weights_that_do_not_fit_are_refused() -> None:
    network = Network(3, 5, 5)
    x = network.conv(network.conv(INPUT, 3, 64), 64, 64)
    quantized = quantize(network.model(x), network.images(2))
    with pytest.raises(
        ModelError, match=r"^npu-sim-4 has room for 16384 bytes of weights, but the model needs 38592; use a larger"
    ):
        compile_model(quantized, PROFILE)


def test_weights_that_fit_in_bytes_but_not_in_partly_filled_rows_are_refused() -> None:
    network = Network(5, 5, 5)
    quantized = quantize(network.model(network.conv(network.conv(INPUT, 5, 5, (1, 1)), 5, 100, (5, 5))), network.images(2))
    with pytest.raises(ModelError, match=r"^npu-sim-4 has room for 4096 weight rows of 4 bytes, but the model needs 5010; use a"):
        compile_model(quantized, PROFILE)


def changed_constant(
    name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], kind: int | None = None
) -> onnx.ModelProto:
    """Return a quantized convolution of four channels with one of its constants changed."""
    network = Network(3, 9, 11)
    quantized = quantize(network.model(network.conv(INPUT, 3, 4)), network.images(4))
    for tensor in quantized.graph.initializer:
        if tensor.name == name:
            values = change(numpy_helper.to_array(tensor))
            tensor.CopyFrom(helper.make_tensor(name, kind or tensor.data_type, values.shape, values.ravel().tolist()))
    return quantized


def test_n6_a_pruned_channel_keeps_its_bias_with_large_inputs() -> None:
    network = Network(3, 6, 6)
    result = network.conv(INPUT, 3, 8, (1, 1))
    weights, bias = (numpy_helper.to_array(tensor).copy() for tensor in network.constants)
    weights[5], bias[5] = 0, -0.37
    images = 1000 * network.images(8)
    changed = zip(network.constants, (weights / 1000, bias), strict=True)
    network.constants = [numpy_helper.from_array(values, tensor.name) for tensor, values in changed]
    float_biases = {"WeightSymmetric": True, "QuantizeBias": False}
    compiled = compile_model(quantize(network.model(result), images, extra_options=float_biases), PROFILE)
    (place,) = compiled.program.description.outputs
    outputs = Session(FunctionalModel(PROFILE), compiled.program).run({INPUT: images})[place.name]
    np.testing.assert_allclose(outputs[:, 5], -0.37, atol=place.scale)
