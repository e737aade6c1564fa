"""Directed worst cases, on the functional model and on the RTL, against results computed by hand or with plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from accel.npu import isa
from accel.npu.arithmetic import LARGEST_PRODUCT, Int8, Int32
from accel.npu.depthwise import depthwise_unit
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.profile import NpuProfile, find_profile
from tests.support.random_programs import TALL, Machine, make_program

PROFILES = {profile.name: profile for profile in (find_profile("npu-sim-4"), find_profile("npu-sim-8-paired"), TALL)}
WORST = -127 * 128
LONGEST = ((1 << 31) - 1) // LARGEST_PRODUCT
"""Terms of the longest dot product whose sum fits an int32 accumulator whatever its values."""
ONE_POSITION = isa.Shape(height=1, width=1, rows=1, columns=1, row_pitch=0)


@pytest.fixture(scope="module", params=[f"{kind} {name}" for name in PROFILES for kind in ("functional", "rtl")])
def machine(request: pytest.FixtureRequest, require: Callable[[str], Path]) -> Iterator[FunctionalModel | RtlSimulator]:
    kind, _, name = request.param.partition(" ")
    if kind == "functional":
        yield FunctionalModel(PROFILES[name])
        return
    require("verilator")
    rtl_simulator = RtlSimulator(PROFILES[name])
    yield rtl_simulator
    rtl_simulator.close()


def identity(profile: NpuProfile, bias: int = 0, shift: int = 30) -> Int32:
    """Return parameters that write (accumulator + bias) / 2^(shift - 30)."""
    row = np.array([bias, 1 << 30, shift], np.int64).astype(np.int32)
    return np.broadcast_to(row, (profile.lane_groups, profile.vector_lanes, 3)).copy()


def run(
    machine: Machine,
    profile: NpuProfile,
    instructions: list[isa.Instruction],
    memory: Int8,
    weights: Int8,
    parameters: Int32,
    *,
    count: int,
) -> Int8:
    """Run and return `count` vectors from address 64."""
    machine.load(make_program(profile, instructions, weights, parameters))
    result: Int8 = machine.execute({0: memory[None]}, [(64, count)])[0][0]
    return result


def finish(count: int) -> list[isa.Instruction]:
    return [isa.Sync(array=1), isa.Vec(accumulator=0, count=count, destination=64, parameters=0)]


def full(profile: NpuProfile, value: int) -> Int8:
    return np.full((64, profile.columns), value, np.int8)


@pytest.mark.parametrize(("offset", "expected"), [(0, 0), (1, 1), (-1, -1)])
def test_n4_the_longest_safe_dot_product_of_extremes_is_exact(
    machine: FunctionalModel | RtlSimulator, offset: int, expected: int
) -> None:
    profile = machine.profile
    visits = LONGEST // profile.columns
    whole, rest = divmod(visits, 63 * 63)
    rows, single = divmod(rest, 63)
    weights = np.full((profile.rows, profile.columns), 127, np.int8)
    taps = isa.Gemm(base=0, kernel_rows=63, kernel_columns=63, row_dilation=0, column_dilation=0)
    passes = (
        [taps] * whole
        + [replace(taps, kernel_rows=rows)] * bool(rows)
        + [replace(taps, kernel_rows=single, kernel_columns=1)] * bool(single)
    )
    chain = [replace(one, accumulate=int(number > 0), swap=int(number == 0)) for number, one in enumerate(passes)]
    load = isa.LoadW(address=0, rows=profile.rows)
    bias = -visits * profile.columns * WORST + offset
    result = run(
        machine,
        profile,
        [load, ONE_POSITION, *chain, *finish(1)],
        full(profile, -128),
        weights,
        identity(profile, bias),
        count=1,
    )
    assert result.tolist() == [[expected] * profile.columns]


@pytest.mark.parametrize(
    ("value", "weight", "expected"), [(-128, 127, -128), (127, 127, 127), (-128, -127, 127), (127, -127, -128)]
)
def test_n8_sums_beyond_int8_saturate_on_both_sides(
    machine: FunctionalModel | RtlSimulator, value: int, weight: int, expected: int
) -> None:
    profile = machine.profile
    weights = np.full((profile.rows, profile.columns), weight, np.int8)
    load = isa.LoadW(address=0, rows=profile.rows)
    program = [load, ONE_POSITION, isa.Gemm(base=0, swap=1), *finish(1)]
    result = run(machine, profile, program, full(profile, value), weights, identity(profile), count=1)
    assert result.tolist() == [[expected] * profile.columns]


@pytest.mark.parametrize("padding", [-128, 127, 3])
@pytest.mark.parametrize(("height", "width", "step"), [(3, 5, 1), (5, 3, 2), (1, 1, 1), (7, 1, 3)])
def test_n13_n24_n28_n30_to_n34_a_window_over_an_odd_plane_reads_padding_on_every_side(
    machine: FunctionalModel | RtlSimulator, height: int, width: int, step: int, padding: int
) -> None:
    profile, memory = machine.profile, random_memory(machine.profile)
    rows, columns = (height + 1) // step + 1, (width + 1) // step + 1
    shape = isa.Shape(
        height=height,
        width=width,
        rows=rows,
        columns=columns,
        row_step=step,
        column_step=step,
        row_pitch=step * width,
        column_pitch=step,
        padding=padding,
    )
    pool = isa.Pool(
        base=(-width - 1) & 0xFFFF, top=-1, left=-1, kernel_rows=3, kernel_columns=3, tap_row_pitch=width, tap_column_pitch=1
    )
    program = [shape, pool, *finish(rows * columns)]
    result = run(machine, profile, program, memory, no_weights(profile), identity(profile, shift=34), count=rows * columns)
    plane = memory[: height * width].reshape(height, width, -1).astype(int)
    padded = np.pad(plane, ((1, step + 2), (1, step + 2), (0, 0)), constant_values=padding)
    sums = windows(padded, rows, columns, step).sum(axis=(2, 3))
    np.testing.assert_array_equal(result, np.clip(np.rint(sums / 16), -128, 127).reshape(-1, profile.columns))


def test_n12_a_maximum_pool_ignores_padding_of_minus_128(machine: FunctionalModel | RtlSimulator) -> None:
    profile, memory = machine.profile, random_memory(machine.profile)
    shape = isa.Shape(height=4, width=4, rows=4, columns=4, row_pitch=4, padding=-128)
    pool = isa.Pool(
        base=(-5) & 0xFFFF, top=-1, left=-1, kernel_rows=3, kernel_columns=3, tap_row_pitch=4, tap_column_pitch=1, maximum=1
    )
    result = run(machine, profile, [shape, pool, *finish(16)], memory, no_weights(profile), identity(profile), count=16)
    padded = np.pad(memory[:16].reshape(4, 4, -1).astype(int), ((1, 1), (1, 1), (0, 0)), constant_values=-128)
    np.testing.assert_array_equal(result, windows(padded, 4, 4, 1).max(axis=(2, 3)).reshape(16, -1))


@pytest.mark.parametrize(
    "kernel", [(1, 1), (1, 3), (1, 4), (2, 3), (2, 4), (3, 3), (3, 5)], ids=lambda kernel: f"{kernel[0]}x{kernel[1]}"
)
@pytest.mark.parametrize(
    ("height", "width", "step", "padded"),
    [
        pytest.param(7, 7, (1, 1), 1, id="odd plane"),
        pytest.param(5, 8, (2, 2), 2, id="step 2"),
        pytest.param(8, 5, (1, 3), 2, id="steps of two sizes"),
        pytest.param(1, 1, (1, 1), 2, id="one pixel, so rows and passes are stretched"),
        pytest.param(3, 2, (2, 1), 3, id="mostly padding"),
    ],
)
def test_n27_n35_a_depthwise_window_sums_each_channel_separately(
    machine: FunctionalModel | RtlSimulator, kernel: tuple[int, int], height: int, width: int, step: tuple[int, int], padded: int
) -> None:
    profile, memory = machine.profile, random_memory(machine.profile)
    kernel = (min(kernel[0], depthwise_unit(profile).rows), min(kernel[1], depthwise_unit(profile).columns))
    rows = (height + 2 * padded - kernel[0]) // step[0] + 1
    columns = (width + 2 * padded - kernel[1]) // step[1] + 1
    shape = isa.Shape(
        height=height,
        width=width,
        rows=rows,
        columns=columns,
        row_step=step[0],
        column_step=step[1],
        row_pitch=step[0] * width,
        column_pitch=step[1],
        padding=-77,
    )
    depthwise = isa.Dw(
        base=(-padded * width - padded) & 0xFFFF,
        top=-padded,
        left=-padded,
        kernel_rows=kernel[0],
        kernel_columns=kernel[1],
        tap_row_pitch=width,
        tap_column_pitch=1,
        swap=1,
    )
    generator = np.random.default_rng(5)
    weights = generator.choice([-127, 127, 3, -58], (2 * profile.rows, profile.columns)).astype(np.int8)
    loads = [isa.LoadW(address=place * profile.rows, rows=profile.rows) for place in range(2)]
    twice = [loads[0], shape, depthwise, loads[1], replace(depthwise, accumulate=1)]
    result = run(
        machine, profile, [*twice, *finish(rows * columns)], memory, weights, identity(profile, shift=39), count=rows * columns
    )
    plane = memory[: height * width].reshape(height, width, -1).astype(int)
    around = np.pad(plane, ((padded, padded), (padded, padded), (0, 0)), constant_values=-77)
    summed = weights.astype(int).reshape(2, profile.rows, -1).sum(axis=0)  # the second pass adds to the first
    first = [row * depthwise_unit(profile).columns + depthwise_unit(profile).columns - kernel[1] for row in range(kernel[0])]
    taps = np.stack([summed[start : start + kernel[1]] for start in first])
    views = np.lib.stride_tricks.sliding_window_view(around, kernel, axis=(0, 1))[:: step[0], :: step[1]]
    sums = np.einsum("yxcij,ijc->yxc", views, taps)
    np.testing.assert_array_equal(result, np.clip(np.rint(sums / 512), -128, 127).reshape(-1, profile.columns))


def test_n26_a_pass_directly_after_another_uses_its_own_weights(machine: FunctionalModel | RtlSimulator) -> None:
    profile, memory = machine.profile, random_memory(machine.profile)
    weights = np.concatenate([np.eye(profile.rows, profile.columns), 2 * np.eye(profile.rows, profile.columns)]).astype(np.int8)
    shape = isa.Shape(height=8, width=8, rows=8, columns=8, row_pitch=8)
    loads = [isa.LoadW(address=place * profile.rows, rows=profile.rows) for place in range(2)]
    passes = [isa.Gemm(base=0, swap=1), isa.Gemm(base=0, swap=1, accumulate=1)]
    program = [shape, loads[0], passes[0], loads[1], passes[1], *finish(64)]
    result = run(machine, profile, program, memory, weights, identity(profile, shift=32), count=64)
    np.testing.assert_array_equal(result, np.rint(memory.astype(int) * 3 / 4))


def test_n29_n72_a_residual_may_be_its_own_destination(machine: FunctionalModel | RtlSimulator) -> None:
    profile = machine.profile
    memory = np.concatenate([random_memory(profile), random_memory(profile, seed=9)])
    shape = isa.Shape(height=8, width=8, rows=8, columns=8, row_pitch=8)
    set_up = isa.Residual(
        main_zero=4, other_zero=-3, main_multiplier=20000, other_multiplier=30000, shift=16, zero=2, low=-100, high=90
    )
    add = isa.Vec(accumulator=0, count=64, destination=64, residual=64, parameters=0, add=1)
    program = [shape, isa.Pool(base=0), set_up, isa.Sync(array=1), add]
    result = run(machine, profile, program, memory, no_weights(profile), identity(profile), count=64)
    main, other = memory[:64].astype(int), memory[64:].astype(int)
    expected = np.clip(np.rint(((main - 4) * 20000 + (other + 3) * 30000) / 65536) + 2, -100, 90)
    np.testing.assert_array_equal(result, expected)


def random_memory(profile: NpuProfile, seed: int = 3) -> Int8:
    return np.random.default_rng(seed).integers(-128, 128, (64, profile.columns)).astype(np.int8)


def no_weights(profile: NpuProfile) -> Int8:
    return np.zeros((0, profile.columns), np.int8)


def windows(padded: npt.NDArray[np.int64], rows: int, columns: int, step: int, size: int = 3) -> npt.NDArray[np.int64]:
    """Return [rows, columns, size, size, channels]."""
    views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))[::step, ::step][:rows, :columns]
    return views.transpose(0, 1, 3, 4, 2)
