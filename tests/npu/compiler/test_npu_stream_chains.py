"""Layers that share the chip: whatever plan a layer follows, and whichever go through row by row together, the bits stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.npu import isa
from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.compiler.streaming import layer as one_layer
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.report import estimate
from accel.npu.model.trace import executed
from accel.npu.profile import NpuProfile
from benchmarks.networks.npu_networks import INPUT, Network
from tests.npu.compiler.test_npu_stream import SMALL_CHIP, WHOLE, network_of, result

CHIP = replace(SMALL_CHIP, name="npu-sim-8-short", instructions=128)
"""Its program memory is too short for any of these networks, so all of them are streamed."""
DEAR = 1 << 40
"""Cycles of a layer by itself that make every chain worth it."""


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
    """Windows that step over rows, one of them a pool, and padding on every side."""
    x = network.add("Relu", network.conv(INPUT, 3, 12, (5, 5), pads=[2, 2, 2, 2], strides=[2, 2]))
    x = network.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return network.conv(x, 12, 9, (3, 3), pads=[2, 2, 2, 2], dilations=[2, 2])


def averages(network: Network) -> str:
    """A pool that adds up, between convolutions of which one leaves vectors out."""
    window = {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}
    x = network.add("AveragePool", network.conv(INPUT, 3, 20, (1, 1)), **window)
    return network.conv(x, 20, 11, (1, 1), strides=[2, 2])


def narrow_end(network: Network) -> str:
    """Many channels on a small plane: their rows do not fit at once."""
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
def test_a_chain_of_layers_gives_the_bits_of_its_layers(
    build: Callable[[Network], str], height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized, images = network_of(build, height, width)
    inside = compile_model(quantized, WHOLE)
    monkeypatch.setattr(one_layer, "_fastest", lambda *_: (0, DEAR))
    streamed = compile_model(quantized, CHIP)
    assert any("+" in layer.name for layer in streamed.program.description.layers)
    assert len(streamed.program.description.layers) < len(inside.program.description.layers)
    np.testing.assert_array_equal(result(streamed, CHIP, images), result(inside, WHOLE, images))


@pytest.mark.parametrize("number", range(7))
def test_every_plan_of_a_layer_gives_the_same_bits(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, images = network_of(narrow_end, 9, 11)
    inside = compile_model(quantized, WHOLE)
    monkeypatch.setattr(one_layer, "_fastest", lambda _, candidates, __: (number % len(candidates), 0))
    streamed = compile_model(quantized, CHIP)
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


def test_weights_come_once_where_parts_of_the_input_add_up() -> None:
    quantized, _ = network_of(lambda network: end_of(network, network.conv(INPUT, 3, 24, (1, 1))), 15, 15)
    streamed = compile_model(quantized, CHIP)
    weights = sum(8 * -(-inputs // 8) * outputs * taps for inputs, outputs, taps in [(3, 24, 1), (24, 200, 1), (200, 72, 9)])
    assert weight_bytes(streamed, CHIP) == weights


def test_what_lies_within_a_chain_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_layer, "_fastest", lambda *_: (0, DEAR))
    quantized, _ = network_of(three_in_a_row, 16, 16)
    streamed = compile_model(quantized, CHIP)
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


def test_the_parameters_of_a_chain_stay_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, images = network_of(many_parameters, 7, 9)
    inside = compile_model(quantized, WHOLE)
    monkeypatch.setattr(one_layer, "_fastest", lambda *_: (0, DEAR))
    streamed = compile_model(quantized, CHIP)
    np.testing.assert_array_equal(result(streamed, CHIP, images), result(inside, WHOLE, images))


def many_parameters(network: Network) -> str:
    """Chains of 56 and 64 of the chip's 64 groups of parameters: the second one begins near the end of that memory."""
    x, before = INPUT, 3
    for channels in (8, 40, 8, 40, 16, 8, 40, 40, 40):
        x, before = network.conv(x, before, channels, (1, 1)), channels
    return x
