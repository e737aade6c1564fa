"""Streamed layers and chains of layers: every plan and every chain gives the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.npu import isa
from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.compiler.streaming.layer import Candidate
from accel.npu.lowering.layers import Layer
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.report import estimate
from accel.npu.model.trace import executed
from accel.npu.profile import NpuProfile
from benchmarks.networks.npu_networks import INPUT, Network
from tests.npu.compiler.test_npu_stream import SMALL_CHIP, WHOLE, network_of, result

CHIP = replace(SMALL_CHIP, name="npu-sim-8-short", instructions=128)
"""A chip whose program memory is too small for these networks, so all of them are streamed."""


def expensive_plan(layer: Layer, candidates: Sequence[Candidate], profile: NpuProfile) -> tuple[int, int]:
    """Return the first plan with a cost that makes every chain cheaper than its single layers."""
    return 0, 1 << 40


def bottlenecks(network: Network) -> str:
    """Two blocks of a residual network, the first with a convolution on its shortcut."""
    x = network.add("Relu", network.conv(INPUT, 3, 16, pads=[1, 1, 1, 1]))
    for number in range(2):
        y = network.add("Relu", network.conv(x, 24 if number else 16, 8, (1, 1)))
        y = network.add("Relu", network.conv(y, 8, 8, pads=[1, 1, 1, 1]))
        y = network.conv(y, 8, 24, (1, 1))
        x = network.add("Relu", network.add("Add", y, x if number else network.conv(x, 16, 24, (1, 1))))
    return x


def stem(network: Network) -> str:
    """Strided windows, one of them a pooling, with padding on every side."""
    x = network.add("Relu", network.conv(INPUT, 3, 12, (5, 5), pads=[2, 2, 2, 2], strides=[2, 2]))
    x = network.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return network.conv(x, 12, 9, (3, 3), pads=[2, 2, 2, 2], dilations=[2, 2])


def averages(network: Network) -> str:
    """An average pooling between convolutions, one of which has a stride."""
    window = {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}
    x = network.add("AveragePool", network.conv(INPUT, 3, 20, (1, 1)), **window)
    return network.conv(x, 20, 11, (1, 1), strides=[2, 2])


def narrow_end(network: Network) -> str:
    """Many channels on a small plane: all channels of a row do not fit the buffer."""
    x = network.conv(INPUT, 3, 120, (1, 1))
    x = network.conv(x, 120, 40, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    return network.conv(x, 40, 96, (1, 1), strides=[2, 2])


def weight_bytes(compiled: Compiled, profile: NpuProfile) -> int:
    return sum(
        4 * instruction.words * instruction.runs
        for instruction in executed(compiled.program, profile)
        if isinstance(instruction, isa.Dma) and instruction.region == isa.Region.WEIGHTS
    )


@pytest.mark.parametrize(
    ("build", "height", "width"),
    [(bottlenecks, 11, 13), (bottlenecks, 6, 24), (stem, 15, 13), (averages, 21, 13)],
    ids=["odd blocks", "wide blocks", "stem", "averages"],
)
def test_a_chain_of_layers_gives_the_bits_of_its_layers(build: Callable[[Network], str], height: int, width: int) -> None:
    quantized, images = network_of(build, height, width)
    inside = compile_model(quantized, WHOLE)
    streamed = compile_model(quantized, CHIP, select_plan=expensive_plan)
    assert any("+" in layer.name for layer in streamed.program.description.layers)
    assert len(streamed.program.description.layers) < len(inside.program.description.layers)
    np.testing.assert_array_equal(result(streamed, CHIP, images), result(inside, WHOLE, images))


@pytest.mark.parametrize("number", range(7))
def test_every_plan_of_a_layer_gives_the_same_bits(number: int) -> None:
    quantized, images = network_of(narrow_end, 9, 11)
    inside = compile_model(quantized, WHOLE)
    streamed = compile_model(quantized, CHIP, select_plan=lambda _, candidates, __: (number % len(candidates), 0))
    np.testing.assert_array_equal(result(streamed, CHIP, images), result(inside, WHOLE, images))


def test_n94_the_rtl_runs_chains_and_sums_of_parts_with_the_predicted_cycles(require: Callable[[str], Path]) -> None:
    require("verilator")
    quantized, images = network_of(lambda network: end_of(network, bottlenecks(network)), 17, 15)
    streamed = compile_model(quantized, SMALL_CHIP)
    assert any("+" in layer.name for layer in streamed.program.description.layers)
    machine = RtlSimulator(SMALL_CHIP)
    name = streamed.program.description.outputs[0].name
    answers = Session(machine, streamed.program).run({INPUT: images[:2]})[name]
    np.testing.assert_array_equal(answers, result(streamed, SMALL_CHIP, images[:2]))
    assert machine.counters == estimate(streamed.program, SMALL_CHIP).counters
    machine.close()


def end_of(network: Network, x: str) -> str:
    x = network.conv(x, 24, 200, (1, 1), strides=[2, 2])
    return network.conv(x, 200, 72, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2])


def test_weights_are_loaded_once_if_parts_of_the_input_accumulate() -> None:
    quantized, _ = network_of(lambda network: end_of(network, network.conv(INPUT, 3, 24, (1, 1))), 15, 15)
    streamed = compile_model(quantized, CHIP)
    weights = sum(8 * -(-inputs // 8) * outputs * taps for inputs, outputs, taps in [(3, 24, 1), (24, 200, 1), (200, 72, 9)])
    assert weight_bytes(streamed, CHIP) == weights


def test_intermediate_tensors_of_a_chain_are_not_stored() -> None:
    quantized, _ = network_of(three_in_a_row, 16, 16)
    streamed = compile_model(quantized, CHIP, select_plan=expensive_plan)
    assert [layer.name for layer in streamed.program.description.layers] == ["conv_0+conv_1+conv_2"]
    stored = [
        4 * instruction.words * instruction.runs
        for instruction in executed(streamed.program, CHIP)
        if isinstance(instruction, isa.Dma) and instruction.store
    ]
    assert sum(stored) == 16 * 16 * 16


def three_in_a_row(network: Network) -> str:
    x = network.conv(INPUT, 3, 16, pads=[1, 1, 1, 1])
    x = network.conv(x, 16, 8, (1, 1))
    return network.conv(x, 8, 16, pads=[1, 1, 1, 1])


def test_the_parameters_of_a_chain_stay_until_its_end() -> None:
    quantized, images = network_of(many_parameters, 7, 9)
    inside = compile_model(quantized, WHOLE)
    streamed = compile_model(quantized, CHIP, select_plan=expensive_plan)
    np.testing.assert_array_equal(result(streamed, CHIP, images), result(inside, WHOLE, images))


def many_parameters(network: Network) -> str:
    """Chains of 56 and 64 of the chip's 64 groups of parameters: the second one begins near the end of that memory."""
    x, before = INPUT, 3
    for channels in (8, 40, 8, 40, 16, 8, 40, 40, 40):
        x, before = network.conv(x, before, channels, (1, 1)), channels
    return x
