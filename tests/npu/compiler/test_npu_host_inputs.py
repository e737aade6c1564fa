"""Preprocessing of inputs runs on the host, with the results of ONNX Runtime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from accel.npu.compiler.compile import compile_model
from accel.npu.machines.host import Session
from accel.npu.model.functional_model import FunctionalModel
from benchmarks.networks.npu_networks import INPUT, Network, quantize, reference
from quantize.npu.functional import ObservedNpuGraph
from tests.npu.compiler.test_npu_compiler import PROFILE, WIDE, steps_apart


def test_channels_last_images_are_transposed_by_the_host() -> None:
    network = Network(9, 11, 3)  # height, width, channels of the user's array
    transposed = network.add("Transpose", INPUT, perm=[0, 3, 1, 2])
    model = network.model(network.conv(transposed, 3, 4))
    images = network.images(20)
    quantized = quantize(model, images)
    result = compile_model(quantized, PROFILE)
    assert result.program.description.inputs[0].channels_last
    assert np.abs(steps_apart(result, quantized, images, PROFILE)).max() <= 1


@pytest.mark.parametrize("quantized_first", [True, False], ids=["quantized before", "in float before"])
def test_n44_images_are_scaled_by_the_host_like_in_the_graph(quantized_first: bool) -> None:
    network = Network(9, 11, 3)
    scaled = network.add("Mul", INPUT, network.constant(np.array(1 / 255, np.float32)))
    model = network.model(network.conv(network.add("Transpose", scaled, perm=[0, 3, 1, 2]), 3, 4))
    images = np.random.default_rng(1).integers(0, 256, (20, 9, 11, 3)).astype(np.float32)
    quantized = quantize(model, images, **({} if quantized_first else {"op_types_to_quantize": ["Conv", "Transpose"]}))
    result = compile_model(quantized, PROFILE)
    assert not result.on_host
    assert result.program.description.inputs[0].gain == pytest.approx(1 / 255, rel=1e-2)
    assert result.coverage[0].reason == "the host applies it when it quantizes the input"
    apart = steps_apart(result, quantized, images, PROFILE)
    assert np.abs(apart).max() <= (2 if quantized_first else 1)
    assert (apart != 0).mean() < (0.1 if quantized_first else 0.005)


@pytest.mark.parametrize("quantized_first", [True, False], ids=["quantized before", "in float before"])
def test_n44_images_are_scaled_and_shifted_by_the_host_like_in_the_graph(quantized_first: bool) -> None:
    network = Network(9, 11, 3)
    scaled = network.add("Mul", INPUT, network.constant(np.array(1 / 127.5, np.float32)))
    shifted = network.add("Add", scaled, network.constant(np.array(-1, np.float32)))
    model = network.model(network.conv(network.add("Transpose", shifted, perm=[0, 3, 1, 2]), 3, 4, pads=[1, 1, 1, 1]))
    images = np.random.default_rng(1).integers(0, 256, (20, 9, 11, 3)).astype(np.float32)
    quantized = quantize(model, images, **({} if quantized_first else {"op_types_to_quantize": ["Conv", "Transpose"]}))
    result = compile_model(quantized, PROFILE)
    assert not result.on_host
    assert result.program.description.inputs[0].offset == pytest.approx(-1, rel=1e-2)
    apart = steps_apart(result, quantized, images, PROFILE)
    assert np.abs(apart).max() <= (3 if quantized_first else 1)
    assert (apart != 0).mean() < (0.3 if quantized_first else 0.005)


def test_n44_an_offset_before_a_gain_is_scaled_with_the_image() -> None:
    network = Network(3, 9, 11)
    shifted = network.add("Sub", INPUT, network.constant(np.array(0.5, np.float32)))
    scaled = network.add("Div", shifted, network.constant(np.array(0.25, np.float32)))
    quantized = quantize(network.model(network.conv(scaled, 3, 4)), images := network.images(20), op_types_to_quantize=["Conv"])
    result = compile_model(quantized, PROFILE)
    place = result.program.description.inputs[0]
    assert (place.gain, place.offset) == (4.0, -2.0)
    assert np.abs(steps_apart(result, quantized, images, PROFILE)).max() <= 1


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels last", "channels first"])
def test_n44_each_channel_may_have_its_own_mean_and_deviation(channels_last: bool) -> None:
    network = Network(9, 11, 3) if channels_last else Network(3, 9, 11)
    shape = (1, 1, 1, 3) if channels_last else (3, 1, 1)
    mean, deviation = (network.constant(np.array(row, np.float32).reshape(shape)) for row in ([0.4, -0.5, 3], [0.2, 2, 0.5]))
    x = network.add("Div", network.add("Sub", INPUT, mean), deviation)
    x = network.add("Transpose", x, perm=[0, 3, 1, 2]) if channels_last else x
    images = network.images(20)
    quantized = quantize(network.model(network.conv(x, 3, 4, pads=[1, 1, 1, 1])), images, op_types_to_quantize=["Conv"])
    result = compile_model(quantized, PROFILE)
    assert not result.on_host
    apart = steps_apart(result, quantized, images, PROFILE)
    assert np.abs(apart).max() <= 1
    assert (apart != 0).mean() < 0.005


def test_a_network_that_scales_its_input_runs_on_the_functional_model_with_its_inner_tensors() -> None:
    network = Network(3, 8, 8)
    scaled = network.add("Mul", INPUT, network.constant(np.array(0.5, np.float32)))
    x = network.conv(network.add("Add", scaled, network.constant(np.array(-1, np.float32))), 3, 4)
    quantized = quantize(network.model(network.conv(x, 4, 4)), network.images(4))
    assert len(ObservedNpuGraph(quantized).tensors) == 2


def test_n44_an_image_that_becomes_a_vector_is_reshaped_by_the_host() -> None:
    network = Network(9, 11, 3)
    vector = network.add("Flatten", network.add("Mul", INPUT, network.constant(np.array(0.5, np.float32))))
    model = network.model(network.gemm(vector, 9 * 11 * 3, 4))
    images = network.images(20)
    quantized = quantize(model, images, op_types_to_quantize=["Gemm"])
    result = compile_model(quantized, PROFILE)
    assert not result.on_host
    assert np.abs(steps_apart(result, quantized, images, PROFILE)).max() <= 1


@pytest.mark.parametrize(
    ("operator", "constant"),
    [
        pytest.param("Mul", -1.0, id="negative"),
        pytest.param("Add", np.arange(11), id="per column"),
    ],
)
def test_a_constant_that_the_host_cannot_apply_while_it_quantizes_stays_an_operator_of_the_host(
    operator: str, constant: npt.ArrayLike
) -> None:
    network = Network(2, 9, 11)
    changed = network.add(operator, INPUT, network.constant(np.asarray(constant, np.float32)))
    images = network.images(4)
    quantized = quantize(network.model(network.conv(changed, 2, 4)), images, op_types_to_quantize=["Conv"])
    result = compile_model(quantized, PROFILE)
    (place,) = result.program.description.inputs
    assert place.name == changed
    given = images * np.asarray(constant, np.float32) if operator == "Mul" else images + np.asarray(constant, np.float32)
    (found,) = Session(FunctionalModel(PROFILE), result.program).run({changed: given}).values()
    (expected,) = reference(quantized, images, [quantized.graph.output[0].name])
    assert np.abs(found - expected).max() <= 1.01 * result.program.description.outputs[0].scale


def test_an_input_that_the_host_reads_too_is_folded_and_does_not_return_from_the_npu() -> None:
    network = Network(3, 9, 11)
    x = network.conv(INPUT, 3, 4, pads=[1, 1, 1, 1])
    model = network.model(x, network.add("HardSwish", network.add("Identity", INPUT)))
    quantized = quantize(model, network.images(4), op_types_to_quantize=["Conv", "Identity"])
    description = compile_model(quantized, WIDE).program.description
    assert [(place.name, place.fold is None) for place in description.inputs] == [(INPUT, False)]
    assert [place.name for place in description.outputs] == [x]
