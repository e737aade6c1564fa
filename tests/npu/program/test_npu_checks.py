"""Programs that could leave their memories, or whose result could depend on timing, are refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel.npu import isa
from accel.npu.arithmetic import Int8, Int32
from accel.npu.model.checks import check_program
from accel.npu.profile import find_profile
from accel.npu.program import LayerRecord
from accel.npu.tensors import TensorPlace
from edgewright.errors import PackageError
from tests.support.random_programs import make_program

PROFILE = find_profile("npu-sim-4")
DEPTH = PROFILE.accumulator_depth
SHAPE = isa.Shape(height=4, width=4, rows=4, columns=4, row_pitch=4)
GEMM = isa.Gemm(base=0)
DW = isa.Dw(base=0, kernel_rows=1, kernel_columns=3, tap_row_pitch=4, tap_column_pitch=1)
VEC = isa.Vec(accumulator=0, count=16, destination=64, parameters=0)
RESIDUAL = isa.Residual(main_zero=0, other_zero=0, main_multiplier=1, other_multiplier=1, shift=1, zero=0, low=-128, high=127)
SYNC = isa.Sync(array=1)


def weights() -> Int8:
    return np.ones((8, 4), np.int8)


def parameters() -> Int32:
    return np.ones((4, PROFILE.vector_lanes, 3), np.int32)


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        pytest.param([GEMM], r"0 \(GEMM\): a SHAPE must come first", id="no shape"),
        pytest.param([isa.Halt()], r"0 \(HALT\): HALT must be the last instruction", id="halt inside"),
        pytest.param([replace(SHAPE, rows=0)], r"0 \(SHAPE\): rows x columns must be 1 to 256 positions, not 0", id="no rows"),
        pytest.param(
            [replace(SHAPE, rows=100)], r"0 \(SHAPE\): rows x columns must be 1 to 256 positions, not 400", id="too many rows"
        ),
        pytest.param(
            [isa.LoadW(address=5, rows=4)], "the program has 8 weight rows, but rows up to 9 are used", id="weights beyond"
        ),
        pytest.param([isa.LoadW(address=0, rows=5)], "rows must be 1 to 4, not 5", id="too many weight rows"),
        pytest.param([SHAPE, replace(GEMM, base=4090)], "activations end at 4096, but 4105 is read", id="reads beyond"),
        pytest.param([SHAPE, replace(GEMM, kernel_rows=0)], "a kernel must have at least one row", id="no taps"),
        pytest.param([SHAPE, replace(GEMM, maximum=1)], "only POOL supports maximum", id="gemm maximum"),
        pytest.param([SHAPE, isa.Pool(base=0, swap=1)], "POOL uses no weights to swap", id="pool swap"),
        pytest.param(
            [SHAPE, replace(GEMM, accumulator=DEPTH - 8)], "accumulators 248 to 263 must be in one bank", id="across banks"
        ),
        pytest.param([SHAPE, replace(GEMM, accumulate=1)], "must be set before they are added to", id="accumulate unset"),
        pytest.param([VEC], "the accumulators must be set first", id="vec unset"),
        pytest.param(
            [SHAPE, GEMM, replace(GEMM, accumulator=4)], r"accumulators \(4, 19\) overlap those of an earlier pass", id="overlap"
        ),
        pytest.param([SHAPE, GEMM, VEC], "VEC and the array both use accumulator bank 0; SYNC first", id="same bank"),
        pytest.param(
            [SHAPE, GEMM, SYNC, VEC, GEMM], "VEC and the array both use accumulator bank 0; SYNC first", id="bank not empty"
        ),
        pytest.param(
            [SHAPE, GEMM, SYNC, VEC, replace(GEMM, base=60, accumulator=DEPTH)],
            "VEC writes activations .* while the array reads",
            id="reads what is written",
        ),
        pytest.param(
            [SHAPE, replace(DW, kernel_rows=2)], "DW supports kernels of up to 1 x 4 in one pass, not 2 x 3", id="kernel"
        ),
        pytest.param([SHAPE, replace(DW, row_dilation=2)], "a dilation of 1 or the step, not 1 and 2", id="dilation"),
        pytest.param([replace(SHAPE, row_step=0), DW], "DW supports a step of 1 or more", id="no step"),
        pytest.param([SHAPE, replace(DW, tap_row_pitch=5)], "the pitches of a DW pass must match its steps", id="pitch"),
        pytest.param(
            [replace(SHAPE, rows=1, columns=63), DW], "DW reads rows of up to 64 vectors, not 65", id="beyond the line buffer"
        ),
        pytest.param(
            [SHAPE, GEMM, SYNC, replace(VEC, parameters=3)],
            "has 4 parameter groups, but groups up to 5 are used",
            id="parameters",
        ),
        pytest.param(
            [SHAPE, GEMM, SYNC, replace(VEC, destination=4090)], "activations end at 4096, but 4105", id="writes beyond"
        ),
        pytest.param([SHAPE, GEMM, SYNC, replace(VEC, add=1)], "a RESIDUAL must come first", id="no residual"),
        pytest.param([SHAPE, GEMM, SYNC, replace(VEC, parts=2)], "parts 1 to 1", id="parts"),
        pytest.param([SHAPE, GEMM, SYNC, replace(VEC, low=5, high=4)], "low must not be over high", id="clamp"),
        pytest.param(
            [SHAPE, GEMM, RESIDUAL, SYNC, replace(VEC, add=1, residual=60)],
            "the residual must be the destination, or must not overlap it",
            id="residual overlaps",
        ),
    ],
)
def test_n70_n71_n72_a_program_that_breaks_a_rule_is_refused(instructions: list[isa.Instruction], message: str) -> None:
    with pytest.raises(PackageError, match=f"instruction .*{message}"):
        check_program(make_program(PROFILE, instructions, weights(), parameters()), PROFILE)


def test_n70_a_program_that_obeys_the_rules_passes() -> None:
    instructions = [
        SHAPE,
        GEMM,
        RESIDUAL,
        SYNC,
        replace(VEC, add=1, residual=64),
        replace(GEMM, accumulator=DEPTH),
        isa.Sync(vector=1),
    ]
    decoded = check_program(make_program(PROFILE, [*instructions, GEMM], weights(), parameters()), PROFILE)
    assert decoded == (*instructions, GEMM, isa.Halt())


def test_n2_a_weight_of_minus_128_is_refused() -> None:
    with pytest.raises(PackageError, match=r"^weights must be between -127 and 127: -128 overflows the paired multiplier$"):
        check_program(make_program(PROFILE, [], np.full((1, 4), -128, np.int8), parameters()), PROFILE)


def test_n5_a_shift_of_63_is_refused() -> None:
    with pytest.raises(PackageError, match=r"^multipliers must not be negative, and shifts must be between 1 and 62$"):
        check_program(make_program(PROFILE, [], weights(), np.full((1, PROFILE.vector_lanes, 3), 63, np.int32)), PROFILE)


def test_n22_a_program_without_halt_is_refused() -> None:
    program = make_program(PROFILE, [], weights(), parameters())
    with pytest.raises(PackageError, match=r"^an NPU program must end with HALT$"):
        check_program(replace(program, instructions=isa.encode([SHAPE])), PROFILE)


@pytest.mark.parametrize(("base", "channels"), [(-1, 4), (4090, 4), (0, 0), (0, 1 << 20)])
def test_n70_an_input_outside_the_memory_is_refused(base: int, channels: int) -> None:
    place = TensorPlace(name="image", channels=channels, height=4, width=4, scale=1.0, zero_point=0, base=base)
    program = make_program(PROFILE, [], weights(), parameters())
    with pytest.raises(PackageError, match=r"^image must fit within the 4096 vectors of npu-sim-4: the program is damaged$"):
        check_program(replace(program, description=replace(program.description, inputs=(place,))), PROFILE)


def test_layers_outside_the_program_are_refused() -> None:
    layer = LayerRecord(name="conv", operator="Conv", first=0, last=9, macs=0)
    program = make_program(PROFILE, [], weights(), parameters())
    with pytest.raises(PackageError, match=r"^the instructions of the layers must be consecutive: the program is damaged$"):
        check_program(replace(program, description=replace(program.description, layers=(layer,))), PROFILE)


def test_n70_a_program_larger_than_a_memory_is_refused() -> None:
    with pytest.raises(PackageError, match=r"^npu-sim-4 has room for 4096 weight rows, but the program has 4097$"):
        check_program(make_program(PROFILE, [], np.zeros((4097, 4), np.int8), parameters()), PROFILE)
