"""Networks that do not fit on the chip are streamed from external memory, with the same bits as on a larger chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from accel.npu import isa
from accel.npu.compiler.compile import Compiled, compile_model
from accel.npu.machines.board import Board
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.model.trace import executed
from accel.npu.profile import NpuProfile, find_profile
from accel.npu.program import EXTERNAL_BASE
from benchmarks.networks.npu_networks import INPUT, Float, Network, quantize, reference
from edgewright.errors import ModelError
from tests.npu.compiler.test_npu_compiler import SMALL, residual_network

SMALL_CHIP = find_profile("npu-sim-8-sdram")
TINY_CHIP = replace(SMALL_CHIP, name="npu-sim-8-tiny", activation_vectors=128, weight_rows=64, parameter_groups=16)
NARROW_CHIP = replace(TINY_CHIP, name="npu-sim-8-narrow", activation_vectors=256)
WHOLE = replace(
    find_profile("npu-sim-8"), instructions=1 << 14, weight_rows=1 << 14, activation_vectors=1 << 15, parameter_groups=1 << 10
)
"""A chip with the same array, on which all of these networks fit."""


def result(compiled: Compiled, profile: NpuProfile, images: Float) -> Float:
    place = compiled.program.description.outputs[0]
    return Session(FunctionalModel(profile), compiled.program).run({INPUT: images})[place.name]


def network_of(build: Callable[[Network], str], height: int, width: int) -> tuple[onnx.ModelProto, Float]:
    network = Network(3, height, width)
    model = network.model(build(network))
    images = network.images(3)
    return quantize(model, images), images


def wide_bottleneck(network: Network) -> str:
    """Many channels on a small plane: the weights stay on the chip, or the input does."""
    x = network.add("Relu", network.conv(INPUT, 3, 40, (1, 1)))
    y = network.add("Relu", network.conv(x, 40, 24, pads=[1, 1, 1, 1]))
    x = network.add("Relu", network.add("Add", network.conv(y, 24, 40, (1, 1)), x))
    x = network.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = network.conv(x, 40, 64, (1, 1), strides=[2, 2])
    return network.gemm(network.add("Flatten", network.add("GlobalAveragePool", x)), 64, 12)


STREAMED = [name for name in SMALL if name not in ("conv 7x7 stride 2", "conv dilated", "gemm over planes")]
"""Two of the others need more input rows than the tiny chip has, and one fits without streaming."""


@pytest.mark.parametrize("name", STREAMED)
def test_n155_each_operator_gives_the_same_bits_through_the_external_memory(name: str) -> None:
    quantized, images = network_of(SMALL[name], 9, 11)
    streamed, inside = compile_model(quantized, TINY_CHIP), compile_model(quantized, WHOLE)
    assert streamed.program.description.inputs[0].base >= EXTERNAL_BASE
    np.testing.assert_array_equal(result(streamed, TINY_CHIP, images), result(inside, WHOLE, images))


@pytest.mark.parametrize("profile", [SMALL_CHIP, NARROW_CHIP], ids=lambda profile: profile.name)
@pytest.mark.parametrize("build", [residual_network, wide_bottleneck])
def test_n154_n155_a_network_that_fetches_its_own_program_gives_the_same_bits(
    build: Callable[[Network], str], profile: NpuProfile
) -> None:
    quantized, images = network_of(build, 13, 14)
    streamed, inside = compile_model(quantized, profile), compile_model(quantized, WHOLE)
    fetches = [
        instruction
        for instruction in executed(streamed.program, profile)
        if isinstance(instruction, isa.Dma) and instruction.region == isa.Region.PROGRAM
    ]
    assert fetches
    assert len(fetches) % 2 == 0
    assert fetches[-1].local == 0
    np.testing.assert_array_equal(result(streamed, profile, images), result(inside, WHOLE, images))


def test_n94_n154_n159_the_rtl_runs_a_streamed_program_twice_with_the_predicted_cycles(
    require: Callable[[str], Path],
) -> None:
    require("verilator")
    quantized, images = network_of(residual_network, 24, 24)
    streamed = compile_model(quantized, SMALL_CHIP)
    machine = RtlSimulator(SMALL_CHIP)
    name = streamed.program.description.outputs[0].name
    answers = Session(machine, streamed.program).run({INPUT: images})[name]
    np.testing.assert_array_equal(answers, result(streamed, SMALL_CHIP, images))
    assert machine.counters == estimate(streamed.program, SMALL_CHIP).counters
    machine.close()


def test_n157_a_board_on_a_serial_line_stores_constants_and_tensors_in_its_external_memory(
    require: Callable[[str], Path],
) -> None:
    require("verilator")
    quantized, images = network_of(lambda network: network.conv(INPUT, 3, 5, pads=[1, 1, 1, 1]), 18, 17)
    streamed = compile_model(quantized, SMALL_CHIP)
    with simulated_board(SMALL_CHIP) as device:
        board = Board(SMALL_CHIP, device)
        answers = Session(board, streamed.program).run({INPUT: images[:2]})["conv_0"]
        counters = board.counters
        board.close()
    np.testing.assert_array_equal(answers, result(streamed, SMALL_CHIP, images[:2]))
    assert counters == estimate(streamed.program, SMALL_CHIP).counters


def test_transfers_overlap_with_the_array() -> None:
    quantized, _ = network_of(residual_network, 24, 24)
    counters = estimate(compile_model(quantized, SMALL_CHIP).program, SMALL_CHIP).counters
    assert counters.transfer_cycles + counters.visits > 1.4 * counters.cycles


def test_layers_of_a_streamed_program_add_up_to_the_whole_run() -> None:
    quantized, _ = network_of(residual_network, 24, 24)
    cost = estimate(compile_model(quantized, SMALL_CHIP).program, SMALL_CHIP)
    assert sum(layer.cycles for layer in cost.layers) == cost.counters.cycles
    assert min(layer.cycles for layer in cost.layers) > 0


def test_n52_streaming_twice_gives_the_same_bytes() -> None:
    quantized, _ = network_of(wide_bottleneck, 13, 14)
    assert compile_model(quantized, SMALL_CHIP).program.to_bytes() == compile_model(quantized, SMALL_CHIP).program.to_bytes()


def test_a_network_that_is_larger_than_the_external_memory_is_refused_with_both_sizes() -> None:
    network = Network(16, 16, 16)
    x = network.conv(INPUT, 16, 16, (1, 1))
    quantized = quantize(network.model(network.gemm(network.add("Flatten", x), 4096, 300)), network.images(1))
    with pytest.raises(
        ModelError,
        match=r"^npu-sim-8-sdram has 1\.0 MB of external memory, but the model needs 1\.2 MB or more for weights and program and "
        r"0\.0 MB for tensors; use a smaller model, or run it on the CPU$",
    ):
        compile_model(quantized, replace(SMALL_CHIP, external_memory_mib=1))


@pytest.mark.slow
def test_a_layer_with_more_weights_than_loadw_can_address_is_streamed() -> None:
    network = Network(2900, 1, 1)
    model = network.model(network.conv(INPUT, 2900, 2900, (1, 1)))
    images = network.images(2)
    quantized = quantize(model, images)
    chip = replace(SMALL_CHIP, name="npu-sim-8-tall", rows=64)
    streamed = compile_model(quantized, chip)
    assert (1 << 20) * chip.columns < 2900 * 2900
    place = streamed.program.description.outputs[0]
    steps = (result(streamed, chip, images) - reference(quantized, images, [place.name])[0]) / place.scale
    assert np.abs(np.rint(steps)).max() <= 1


def test_scales_that_are_too_far_apart_are_refused_in_a_streamed_network() -> None:
    quantized, _ = network_of(SMALL["conv 3x3 same"], 9, 11)
    for tensor in quantized.graph.initializer:
        if tensor.name == "conv_0_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.array(1e-20, np.float32), tensor.name))
    with pytest.raises(ModelError, match=r"^layer conv_0: a rescale of .* exceeds 2\^30; its scales are too far apart"):
        compile_model(quantized, TINY_CHIP)


def test_an_input_whose_rows_exceed_the_chip_is_refused_with_the_layer() -> None:
    quantized, _ = network_of(lambda network: network.conv(INPUT, 3, 5, (7, 7)), 9, 60)
    with pytest.raises(
        ModelError, match=r"^layer conv_0: the input rows of one output row must fit the 128 vectors of 8 bytes on"
    ):
        compile_model(quantized, TINY_CHIP)
