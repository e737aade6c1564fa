"""Transfers between the chip and its external memory: data, cycles, and programs that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from accel.npu import isa, registers
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.checks import check_program
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.timing import time_program
from accel.npu.model.trace import executed
from accel.npu.profile import NpuProfile, find_profile
from accel.npu.program import EXTERNAL_BASE, NpuProgram, read_program
from edgewright.errors import OperationError, PackageError, ProfileError
from tests.support.random_programs import SYNC_ALL, filled, make_program, memory_after, random_program

PROFILE = find_profile("npu-sim-8-sdram")
WEIGHTS = np.arange(64 * 8, dtype=np.int8).reshape(64, 8) % 127
PARAMETERS = np.broadcast_to(np.array([0, 1 << 30, 30], np.int32), (32, 2, 3))
CONSTANTS = np.concatenate(
    [(WEIGHTS[::-1] + 0).reshape(-1).view(np.uint32), np.pad(PARAMETERS, ((0, 0), (0, 0), (0, 1))).view(np.uint32).reshape(-1)]
)
TENSORS = len(CONSTANTS)
LEFT_BY_EARLIER_PROGRAMS = np.full(2048, 0xA5A5A5A5, np.uint32)
LOAD = isa.Dma(region=isa.Region.ACTIVATIONS, external=TENSORS, local=0, words=16)
STORE = replace(LOAD, store=1)
LOAD_WEIGHTS = isa.Dma(region=isa.Region.WEIGHTS, external=0, local=0, words=16)
LOAD_PARAMETERS = isa.Dma(region=isa.Region.PARAMETERS, external=128, local=0, words=16)
DONE = isa.Sync(transfers=1)
SHAPE = isa.Shape(height=4, width=4, rows=4, columns=4, row_pitch=4)
POOL = isa.Pool(base=0)
VEC = isa.Vec(accumulator=0, count=8, destination=0, parameters=0)


def program(*instructions: isa.Instruction) -> NpuProgram:
    return make_program(PROFILE, instructions, WEIGHTS, PARAMETERS, CONSTANTS)


@pytest.fixture(scope="module")
def rtl_simulator(require: Callable[[str], Path]) -> Iterator[RtlSimulator]:
    require("verilator")
    machine = RtlSimulator(PROFILE)
    yield machine
    machine.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, (1 << 64) - 1))
@example(seed=258)  # loads tensors from beyond those that the random memory fills
def test_n150_n151_n161_to_n164_random_programs_with_transfers_agree_in_rtl_and_models(
    rtl_simulator: RtlSimulator, seed: int
) -> None:
    drawn, vectors = random_program(seed, PROFILE)
    memory = filled(vectors, PROFILE)
    rtl_simulator.port.write(registers.TENSORS, len(drawn.external), LEFT_BY_EARLIER_PROGRAMS)
    expected = memory_after(FunctionalModel(PROFILE), drawn, memory)
    np.testing.assert_array_equal(memory_after(rtl_simulator, drawn, memory), expected)
    assert rtl_simulator.counters == time_program(executed(drawn, PROFILE), PROFILE).counters


@pytest.mark.parametrize(
    ("instructions", "cycles"),
    [
        # Issued in cycle 2, requested in 4; the refresh at the start occupies the controller until 7.
        pytest.param([replace(LOAD_WEIGHTS, words=2)], 7 + (2 * 2 + 7) + 5 + 1, id="n161 one weight row"),
        pytest.param([replace(LOAD_WEIGHTS, words=100)], 7 + (2 * 100 + 7) + 5 + 1, id="n161 fifty weight rows"),
        pytest.param([STORE], 2 + 2 + 8 + (2 * 16 + 5) + 5 + 1, id="n163 a stored run"),
        pytest.param(
            [replace(LOAD, words=4, runs=3, external_pitch=16, local_pitch=4)],
            7 + 3 * (2 * 4 + 7) + 2 * 1 + 5 + 1,
            id="n163 a cycle between runs",
        ),
        pytest.param(
            [replace(LOAD, external=TENSORS // 256 * 256 + 256 + 250, words=16)],
            7 + (2 * 6 + 7) + 1 + (2 * 10 + 7) + 5 + 1,
            id="n161 over the end of a page",
        ),
        pytest.param(
            [replace(LOAD, external=TENSORS // 256 * 256 + 256, words=256), replace(LOAD, words=16)],
            7 + (2 * 256 + 7) + 7 + (2 * 16 + 7) + 5 + 1,
            id="n162 the refresh that a long burst delays comes before the next transfer",
        ),
    ],
)
def test_n161_to_n163_a_transfer_takes_the_cycles_of_the_specification(
    rtl_simulator: RtlSimulator, instructions: list[isa.Instruction], cycles: int
) -> None:
    transfers = program(*instructions)
    memory_after(rtl_simulator, transfers, np.zeros((64, 8), np.int8))
    predicted = time_program(executed(transfers, PROFILE), PROFILE).counters
    assert predicted.cycles == cycles
    assert rtl_simulator.counters == predicted


def test_n151_n158_a_seventeenth_transfer_waits_for_room_in_the_queue(rtl_simulator: RtlSimulator) -> None:
    transfers = program(*[replace(LOAD_WEIGHTS, local=16 * number) for number in range(17)])
    memory_after(rtl_simulator, transfers, np.zeros((64, 8), np.int8))
    # The first ends in cycle 7 + 39 + 5; the seventeenth could have been issued in 2 + 16 x 3.
    assert rtl_simulator.counters is not None
    assert rtl_simulator.counters.transfer_stalls == 51 - 50
    assert rtl_simulator.counters == time_program(executed(transfers, PROFILE), PROFILE).counters


def test_n152_halt_waits_for_transfers_and_an_npu_without_external_memory_refuses_them() -> None:
    without = find_profile("npu-sim-8")
    with pytest.raises(PackageError, match=r"^instruction 0 \(DMA\): npu-sim-8 has no external memory$"):
        check_program(make_program(without, [LOAD], WEIGHTS, PARAMETERS), without)
    after = memory_after(FunctionalModel(PROFILE), program(LOAD), np.full((64, 8), 7, np.int8))
    assert (after[:8] == 7).all()


def test_n159_repeat_equals_the_unrolled_instructions(rtl_simulator: RtlSimulator) -> None:
    load, gemm = isa.LoadW(address=3, rows=5), isa.Gemm(base=65532, accumulate=1, swap=1, top=-1)
    rounds = [(replace(load, address=3 + index * 5), replace(gemm, base=(65532 + index * 9) & 0xFFFF)) for index in range(6)]
    start, end = [SHAPE, isa.Gemm(base=0)], [isa.Sync(array=1), replace(VEC, count=16, destination=100)]
    unrolled = program(*start, *[instruction for pair in rounds for instruction in pair], *end)
    repeated = program(*start, isa.Repeat(count=6, address_step=5, base_step=9), load, gemm, *end)
    memory = np.random.default_rng(0).integers(-128, 128, (128, 8)).astype(np.int8)
    expected = memory_after(FunctionalModel(PROFILE), unrolled, memory)
    np.testing.assert_array_equal(memory_after(FunctionalModel(PROFILE), repeated, memory), expected)
    np.testing.assert_array_equal(memory_after(rtl_simulator, repeated, memory), expected)
    assert rtl_simulator.counters == time_program(executed(repeated, PROFILE), PROFILE).counters


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        pytest.param(
            [SHAPE, LOAD, POOL], "lines .* of the activations memory may still be in transfer", id="read before it is there"
        ),
        pytest.param([SHAPE, POOL, LOAD], "lines .* of the activations memory are in use", id="loaded over what the array reads"),
        pytest.param(
            [LOAD_WEIGHTS, isa.LoadW(address=0, rows=8)], "lines .* of the weights memory may still be", id="weights too early"
        ),
        pytest.param(
            [isa.LoadW(address=0, rows=8), LOAD_WEIGHTS], "lines .* of the weights memory are in use", id="weights too late"
        ),
        pytest.param(
            [SHAPE, POOL, isa.Sync(array=1), STORE, VEC],
            "activations .* may still be in transfer to memory",
            id="overwritten while stored",
        ),
        pytest.param([SHAPE, POOL, isa.Sync(array=1), VEC, STORE], "lines .* are in use", id="stored while written"),
        pytest.param(
            [SHAPE, POOL, isa.Sync(array=1), LOAD_PARAMETERS, VEC],
            "lines .* of the parameters memory may still be",
            id="parameters",
        ),
        pytest.param(
            [SHAPE, LOAD, LOAD_WEIGHTS, isa.Sync(transfers=1, pending=2), POOL],
            "may still be in transfer",
            id="waited for too few",
        ),
        pytest.param([replace(LOAD_WEIGHTS, store=1)], "only activations can be stored", id="weights stored"),
        pytest.param([replace(LOAD, region=7)], "region must be one of 1 to 4, not 7", id="no such region"),
        pytest.param([replace(LOAD, words=3)], "addresses, words and pitches must be multiples of 2", id="half a vector"),
        pytest.param(
            [replace(LOAD, local=1020)], "the activations memory ends at word 1024, but 1036 is used", id="past the end"
        ),
        pytest.param(
            [replace(LOAD, external=(1 << 23) - 2)], "the external memory ends at word 8388608", id="past the outside's end"
        ),
        pytest.param(
            [replace(LOAD, external=0)],
            "the program's constants are words 0 to 383: tensors must be after them",
            id="constants read",
        ),
        pytest.param(
            [replace(LOAD_WEIGHTS, external=380)],
            "tensors must be after them, all else must be within them",
            id="weights from tensors",
        ),
        pytest.param([replace(LOAD, runs=2, external_pitch=16)], "runs must not overlap", id="runs on each other"),
        pytest.param(
            [isa.LoadW(address=100, rows=8)], "the program has 64 weight rows, but rows up to 108", id="rows never loaded"
        ),
    ],
)
def test_n153_n155_a_program_that_could_race_with_its_transfers_is_refused(
    instructions: list[isa.Instruction], message: str
) -> None:
    with pytest.raises(PackageError, match=f"instruction .*{message}"):
        check_program(program(*instructions), PROFILE)


def test_n153_a_program_with_exactly_the_required_waits_passes() -> None:
    waits = isa.Sync(transfers=1, pending=1)
    check_program(program(SHAPE, LOAD, LOAD_WEIGHTS, waits, POOL, DONE, isa.LoadW(address=0, rows=8), SYNC_ALL, STORE), PROFILE)


def test_n155_weights_of_minus_128_are_refused_among_the_constants_too() -> None:
    invalid = replace(program(LOAD_WEIGHTS), external=np.full(TENSORS, 0x80808080, np.uint32))
    with pytest.raises(PackageError, match=r"^instruction 0 \(DMA\): weights must be between -127 and 127$"):
        check_program(invalid, PROFILE)


def test_n51_n155_the_constants_survive_writing_and_reading_a_file() -> None:
    np.testing.assert_array_equal(read_program(program(LOAD_WEIGHTS).to_bytes()).external, CONSTANTS)


def test_n156_a_tensor_in_external_memory_has_addresses_from_65536_on(rtl_simulator: RtlSimulator) -> None:
    vectors = np.arange(64, dtype=np.int8).reshape(1, 8, 8)
    at = EXTERNAL_BASE + TENSORS // 2
    for machine in (FunctionalModel(PROFILE), rtl_simulator):
        machine.load(program(LOAD, DONE, replace(STORE, external=TENSORS + 64)))
        results = machine.execute({at: vectors}, [(0, 8), (at + 32, 8)])
        np.testing.assert_array_equal(results, [vectors, vectors])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"external_memory_mib": 64}, "external_memory_mib must be at most 32, the size of its SDRAM, not 64"),
        (
            {"external_bandwidth_mb_per_s": 99},
            "external_bandwidth_mb_per_s must be 120, two bytes per cycle of the clock, not 99",
        ),
        ({"clock_mhz": 120.0, "external_bandwidth_mb_per_s": 240}, "clock_mhz must be at most 100 with external memory, not 120"),
        (
            {"vector_lanes": 4},
            "external memory requires 8 columns or more, and vector_lanes of at most a quarter .*, not 8 and 4",
        ),
    ],
)
def test_n164_external_memory_that_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ProfileError, match=f"^npu-sim-8-sdram: {message}"):
        changed(changes)


def changed(changes: dict[str, object]) -> NpuProfile:
    return replace(PROFILE, **changes)  # type: ignore[arg-type]


def test_a_violation_of_the_memory_protocol_stops_the_run(rtl_simulator: RtlSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rtl_simulator._port._library, "npu_violation", lambda _npu: b"tRCD: READ within 20 ns of ACTIVATE in cycle 5"
    )
    with pytest.raises(
        OperationError, match=r"^the SDRAM protocol must be obeyed, but it was violated: tRCD: .* in cycle 5; this"
    ):
        rtl_simulator.start()


def test_n158_the_registers_count_transfers(rtl_simulator: RtlSimulator) -> None:
    memory_after(rtl_simulator, program(LOAD), np.zeros((64, 8), np.int8))
    stalls, cycles = map(int, rtl_simulator.port.read(registers.REGISTERS, 13, 2))
    assert (stalls, cycles) == (0, 7 + (2 * 16 + 7) + 5 - 4)
