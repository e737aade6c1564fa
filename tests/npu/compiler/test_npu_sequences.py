"""Operators over one axis, as convolutions of one row, against ONNX Runtime, and the RTL against the functional model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import NpuProfile, find_profile
from benchmarks.networks.npu_networks import INPUT, Float, Network, quantize
from edgewright.errors import SamplesError
from tests.npu.compiler.test_npu_compiler import PROFILE, WIDE, NetworkOf, steps_apart

CHANNELS, LENGTH = 4, 33


def convolution(network: Network, source: str, inputs: int, outputs: int, size: int = 3, **attributes: Any) -> str:
    inputs //= attributes.get("group", 1)
    weights = network.generator.normal(size=(outputs, inputs, size)) * np.sqrt(2 / (inputs * size))
    bias = network.generator.normal(scale=0.2, size=outputs)
    constants = (network.constant(values.astype(np.float32)) for values in (weights, bias))
    return network.add("Conv", source, *constants, **attributes)


def shapes(network: Network, *sizes: int) -> str:
    return network.constant(np.array(sizes, np.int64))


def normalized(network: Network) -> str:
    constants = (network.constant(network.generator.uniform(0.2, 1, 8).astype(np.float32)) for _ in range(4))
    return network.add("Relu", network.add("BatchNormalization", convolution(network, INPUT, CHANNELS, 8), *constants))


def residual(network: Network) -> str:
    x = network.add("Relu", convolution(network, INPUT, CHANNELS, 8, pads=[1, 1]))
    return network.add("Add", x, convolution(network, x, 8, 8, 5, pads=[2, 2]))


def whole(network: Network) -> str:
    x = network.add("LeakyRelu", convolution(network, INPUT, CHANNELS, 8, 5, pads=[2, 2], strides=[2]))
    x = network.add("MaxPool", convolution(network, x, 8, 8, pads=[1, 1], group=8), kernel_shape=[3], strides=[2])
    x = network.add("Concat", x, convolution(network, x, 8, 8, 1), axis=1)
    return network.gemm(network.add("Flatten", network.add("GlobalAveragePool", x)), 16, 5)


def unsqueezed(network: Network) -> str:
    x = network.add("Unsqueeze", INPUT, shapes(network, 2))
    x = network.add("Relu", network.conv(x, CHANNELS, 8, (1, 5), pads=[0, 2, 0, 2]))
    return convolution(network, network.add("Squeeze", x, shapes(network, 2)), 8, 6)


SEQUENCES: dict[str, NetworkOf] = {
    "convolution": lambda n: convolution(n, INPUT, CHANNELS, 6),
    "strided, uneven padding": lambda n: convolution(n, INPUT, CHANNELS, 6, 5, pads=[3, 1], strides=[3]),
    "dilated": lambda n: convolution(n, INPUT, CHANNELS, 6, 3, pads=[4, 4], dilations=[4]),
    "same upper": lambda n: convolution(n, INPUT, CHANNELS, 6, 4, strides=[2], auto_pad="SAME_UPPER"),
    "groups": lambda n: convolution(n, INPUT, CHANNELS, 6, group=2),
    "depthwise": lambda n: convolution(n, INPUT, CHANNELS, CHANNELS, 9, pads=[4, 4], group=CHANNELS),
    "maximum": lambda n: n.add("MaxPool", convolution(n, INPUT, CHANNELS, 6), kernel_shape=[3], strides=[2], pads=[1, 1]),
    "average": lambda n: n.add("AveragePool", convolution(n, INPUT, CHANNELS, 6), kernel_shape=[4], strides=[4]),
    "average of all": lambda n: n.add("GlobalAveragePool", convolution(n, INPUT, CHANNELS, 6)),
    "maximum of all": lambda n: n.add("GlobalMaxPool", convolution(n, INPUT, CHANNELS, 6)),
    "reduced to a vector": lambda n: n.add("ReduceMean", convolution(n, INPUT, CHANNELS, 6), axes=[2], keepdims=0),
    "pad": lambda n: convolution(n, n.add("Pad", convolution(n, INPUT, CHANNELS, 6), shapes(n, 0, 0, 2, 0, 0, 1)), 6, 4),
    "concat": lambda n: n.add("Concat", *(convolution(n, INPUT, CHANNELS, 8) for _ in range(2)), axis=1),
    "batch normalization": normalized,
    "addition": residual,
    "function": lambda n: n.add("Tanh", convolution(n, INPUT, CHANNELS, 6)),
    "PRelu per channel": lambda n: n.add(
        "PRelu", convolution(n, INPUT, CHANNELS, 3), n.constant(np.array([[0.2], [-0.4], [1.7]], np.float32))
    ),
    "an image of one row": unsqueezed,
    "an image of the input": lambda n: n.conv(n.add("Reshape", INPUT, shapes(n, -1, 2, 6, 11)), 2, 5),
    "whole": whole,
}


def compiled(build: NetworkOf, profile: NpuProfile, *shape: int) -> tuple[Compiled, Any, Float]:
    network = Network(1, 1, 1)
    network.shape = shape or (CHANNELS, LENGTH)
    model, images = network.model(build(network)), network.images(40)
    quantized = quantize(model, images)
    return compile_model(quantized, profile), quantized, images


@pytest.mark.parametrize("profile", [PROFILE, WIDE], ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", SEQUENCES)
def test_n48_an_operator_over_one_axis_is_within_one_step_of_onnxruntime(name: str, profile: NpuProfile) -> None:
    result, quantized, images = compiled(SEQUENCES[name], profile)
    apart = steps_apart(result, quantized, images, profile)
    assert not result.on_host
    assert np.abs(apart).max() <= (2 if name == "whole" else 1)
    assert (apart != 0).mean() < (0.15 if name in ("whole", "average") else 0.005)


@pytest.mark.parametrize("profile", [PROFILE, WIDE], ids=lambda profile: profile.name)
def test_n44_n48_the_host_transposes_a_sequence_of_channels_last(profile: NpuProfile) -> None:
    def build(network: Network) -> str:
        return convolution(network, network.add("Transpose", INPUT, perm=[0, 2, 1]), CHANNELS, 6)

    result, quantized, images = compiled(build, profile, LENGTH, CHANNELS)
    assert [row.reason for row in result.coverage if row.operator == "Transpose"] == [
        "the host applies it when it quantizes the input"
    ]
    assert np.abs(steps_apart(result, quantized, images, profile)).max() <= 1


def test_n48_n94_a_network_of_sequences_has_the_same_bits_and_the_predicted_cycles_in_the_rtl(
    require: Callable[[str], Path],
) -> None:
    require("verilator")
    profile = find_profile("npu-sim-4")
    result, _, images = compiled(whole, profile)
    rtl_simulator = RtlSimulator(profile)
    name = result.program.description.outputs[0].name
    rtl = Session(rtl_simulator, result.program).run({INPUT: images[:4]})[name]
    np.testing.assert_array_equal(rtl, Session(FunctionalModel(profile), result.program).run({INPUT: images[:4]})[name])
    assert rtl_simulator.counters == estimate(result.program, profile).counters
    rtl_simulator.close()


def test_sequences_of_another_length_are_refused_with_both_shapes() -> None:
    result, _, _ = compiled(SEQUENCES["convolution"], PROFILE)
    with pytest.raises(SamplesError, match=r"^input image must have shape \[N, 4, 33\], not \[2, 4, 5\]$"):
        Session(FunctionalModel(PROFILE), result.program).run({INPUT: np.zeros((2, 4, 5), np.float32)})
