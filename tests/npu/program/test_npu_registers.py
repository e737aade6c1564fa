"""The host interface of the RTL: registers, memories, counters, and the cycles of each instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accel.npu import isa, registers
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.timing import Counters, time_program
from accel.npu.profile import find_profile
from edgewright.errors import OperationError
from tests.support.random_programs import make_program, memory_after

PROFILE = find_profile("npu-sim-8-paired")
SHAPE = isa.Shape(height=4, width=4, rows=4, columns=4, row_pitch=4)
VEC = isa.Vec(accumulator=0, count=16, destination=64, parameters=0)
SYNC = isa.Sync(array=1)


@pytest.fixture(scope="module")
def rtl_simulator(require: Callable[[str], Path]) -> Iterator[RtlSimulator]:
    require("verilator")
    machine = RtlSimulator(PROFILE)
    yield machine
    machine.close()


def test_n62_n80_the_first_registers_identify_the_hardware(rtl_simulator: RtlSimulator) -> None:
    magic, geometry, low, high = map(int, rtl_simulator.port.read(registers.REGISTERS, 0, 4))
    assert magic.to_bytes(4, "little") == b"EWP1"
    assert geometry.to_bytes(4, "big") == bytes([PROFILE.rows, PROFILE.columns, PROFILE.vector_lanes, 1])
    assert low.to_bytes(4, "little") + high.to_bytes(4, "little") == PROFILE.hash[:8]


def test_n81_n82_words_written_to_the_activations_are_read_back(rtl_simulator: RtlSimulator) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 64, dtype=np.uint32)
    rtl_simulator.port.write(registers.ACTIVATIONS, 100, words)
    np.testing.assert_array_equal(rtl_simulator.port.read(registers.ACTIVATIONS, 100, 64), words)


def test_n21_an_unknown_opcode_stops_the_hardware_with_the_failed_bit(rtl_simulator: RtlSimulator) -> None:
    rtl_simulator.port.write(registers.PROGRAM, 0, np.array([15, 0, 0, 0], np.uint32))
    with pytest.raises(OperationError, match=r"^the NPU stopped at an unknown instruction; load the program again$"):
        rtl_simulator.start()
    assert int(rtl_simulator.port.read(registers.REGISTERS, registers.STATUS, 1)[0]) == 4


def test_n25_all_weights_are_zero_when_a_program_starts(rtl_simulator: RtlSimulator) -> None:
    memory = np.full((80, PROFILE.columns), 100, np.int8)
    weights = np.full((8, PROFILE.columns), 127, np.int8)
    parameters = np.broadcast_to(np.array([0, 1 << 30, 30], np.int32), (PROFILE.lane_groups, PROFILE.vector_lanes, 3))
    finish = [SYNC, VEC]
    used = make_program(PROFILE, [isa.LoadW(address=0, rows=8), SHAPE, isa.Gemm(base=0, swap=1), *finish], weights, parameters)
    unused = make_program(PROFILE, [SHAPE, isa.Gemm(base=0, swap=1), *finish], weights, parameters)
    assert memory_after(rtl_simulator, used, memory)[64:80].min() == 127
    assert np.abs(memory_after(rtl_simulator, unused, memory)[64:80]).max() == 0


SETS_ACCUMULATORS = [SHAPE, isa.Pool(base=0)]


@pytest.mark.parametrize(
    ("instructions", "cycles"),
    [
        pytest.param([], 3, id="n90 HALT alone"),
        pytest.param([isa.Sync()] * 5, 18, id="n90 three cycles per instruction"),
        pytest.param([SHAPE, isa.Gemm(base=0)], 6 + 16 + 8, id="n91 sixteen visits and the latency to the accumulators"),
        pytest.param([SHAPE, isa.Gemm(base=0), isa.Gemm(base=0)], 6 + 32 + 8, id="n91 no gap between passes"),
        pytest.param(
            [replace(SHAPE, rows=1, columns=1), isa.Pool(base=0, kernel_rows=4)],
            6 + 3 * 4 + 1 + 8,
            id="n91 short taps are stretched",
        ),
        pytest.param([isa.LoadW(address=0, rows=8)], 3 + 8 + 3, id="n92 weight rows"),
        pytest.param([*SETS_ACCUMULATORS, SYNC, VEC], 6 + 16 + 8 + 3 + 16 * 4 + 13, id="n92 four groups per vector"),
    ],
)
def test_n83_n90_to_n94_a_program_takes_the_cycles_of_the_specification(
    rtl_simulator: RtlSimulator, instructions: list[isa.Instruction], cycles: int
) -> None:
    parameters = np.ones((PROFILE.lane_groups, PROFILE.vector_lanes, 3), np.int32)
    program = make_program(PROFILE, instructions, np.ones((8, PROFILE.columns), np.int8), parameters)
    predicted = time_program(isa.decode(program.instructions), PROFILE).counters
    memory_after(rtl_simulator, program, np.zeros((16, PROFILE.columns), np.int8))
    assert predicted.cycles == cycles
    assert rtl_simulator.counters == predicted


def test_n23_n83_stalls_are_counted_per_unit(rtl_simulator: RtlSimulator) -> None:
    load = isa.LoadW(address=0, rows=8)
    instructions = [SHAPE, load, load, isa.Gemm(base=0, swap=1), isa.Gemm(base=0), SYNC, VEC, replace(VEC, destination=96)]
    parameters = np.ones((PROFILE.lane_groups, PROFILE.vector_lanes, 3), np.int32)
    program = make_program(PROFILE, instructions, np.ones((8, PROFILE.columns), np.int8), parameters)
    memory_after(rtl_simulator, program, np.zeros((16, PROFILE.columns), np.int8))
    assert rtl_simulator.counters == Counters(
        cycles=225,
        visits=32,
        vector_cycles=128,
        loader_stalls=16,
        array_stalls=13,
        vector_stalls=74,
        sync_stalls=95,
        transfer_stalls=0,
        transfer_cycles=0,
    )
