"""NPU programs for tests: random ones from a seed, and those made from a list of instructions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.arithmetic import Int8, Int32
from accel.npu.depthwise import depthwise_unit
from accel.npu.model.checks import check_program
from accel.npu.profile import NpuProfile, find_profile
from accel.npu.program import EXTERNAL_BASE, Description, NpuProgram
from edgewright.errors import PackageError

TALL = replace(find_profile("npu-sim-4-paired"), name="npu-sim-16x4-paired", rows=16)
"""The smallest NPU with the full depthwise unit and with four parts per vector pass."""
SYNC_ALL = isa.Sync(loader=1, array=1, vector=1, transfers=1)
PLANE = 64
"""Random programs read planes below this address times four, and write anywhere below eight times it."""


class Machine(Protocol):
    """Protocol of the functional model and the RTL simulator."""

    def load(self, program: NpuProgram) -> None: ...

    def execute(self, inputs: dict[int, Int8], outputs: Sequence[tuple[int, int]]) -> list[Int8]: ...


def make_program(
    profile: NpuProfile,
    instructions: Sequence[isa.Instruction],
    weights: Int8,
    parameters: Int32,
    external: npt.NDArray[np.uint32] | None = None,
) -> NpuProgram:
    return NpuProgram(
        profile_hash=profile.hash,
        instructions=isa.encode([*instructions, isa.Halt()]),
        weights=weights,
        parameters=parameters,
        external=np.zeros(0, np.uint32) if external is None else external,
        description=Description(inputs=(), outputs=(), layers=(), profile_name=profile.name),
    )


def memory_after(machine: Machine, program: NpuProgram, memory: Int8) -> Int8:
    """Write `memory` to the activations, and to the external tensors if there are any; run, and return all of them."""
    machine.load(program)
    contents = {0: memory}
    if len(program.external):
        columns = memory.shape[1]
        count = max(len(memory), reached_words(program) * 4 // columns)
        contents[EXTERNAL_BASE + len(program.external) * 4 // columns] = np.resize(memory, (count, columns))
    outputs = [(address, len(written)) for address, written in contents.items()]
    results = machine.execute({address: written[None] for address, written in contents.items()}, outputs)
    return np.concatenate([read[0] for read in results])


def reached_words(program: NpuProgram) -> int:
    """Return how many words of external tensors transfers reach: the others may hold what an earlier program left there."""
    instructions = isa.decode(program.instructions)
    moved = [each for each in instructions if isinstance(each, isa.Dma) and each.region == isa.Region.ACTIVATIONS]
    ends = [each.external + (each.runs - 1) * each.external_pitch + each.words for each in moved]
    return max(ends, default=len(program.external)) - len(program.external)


def filled(memory: Int8, profile: NpuProfile) -> Int8:
    """Pad `memory` with zeros: a residual may be read from there, where an earlier program left its outputs."""
    return np.pad(memory, ((0, profile.activation_vectors - len(memory)), (0, 0)))


def random_memories(profile: NpuProfile, seed: int) -> tuple[Int8, Int8, Int32]:
    """Return activations, weights and parameters, some of them with extreme values."""
    generator = np.random.default_rng(seed)
    activations = extreme(generator, (8 * PLANE, profile.columns), low=-128)
    weights = extreme(generator, (64, profile.columns), low=-127)
    if profile.shift_rows and seed % 4:
        weights = np.maximum(weights & ~0x0C, -125).astype(np.int8)  # as shifts these are 0 to 3, so that not all sums wrap
    shape = (32, profile.vector_lanes)
    bias = generator.integers(-(1 << 31), 1 << 31, shape) >> generator.integers(0, 31, shape)
    multiplier = generator.integers(0, 1 << 31, shape)
    shift = generator.integers(1, 63, shape)
    likely = np.where(generator.random(shape) < 0.5, generator.integers(30, 34, shape), generator.integers(36, 42, shape))
    sensible = generator.random(shape) < 0.9  # most results must be neither 0 nor saturated
    multiplier = np.where(sensible, multiplier | 1 << 30, multiplier)
    multiplier = np.where(generator.random(shape) < 0.4, 1 << 30, multiplier)  # a power of two, so that ties occur
    bias, shift = np.where(sensible, bias >> 23, bias), np.where(sensible, likely, shift)
    return activations, weights, np.stack([bias, multiplier, shift], axis=-1).astype(np.int32)


def extreme(generator: np.random.Generator, shape: tuple[int, ...], *, low: int) -> Int8:
    values = generator.integers(low, 128, shape)
    corners = generator.choice([low, 127, 0, -1], shape)
    mixed: Int8 = np.where(generator.random(shape) < 0.2, corners, values).astype(np.int8)
    return mixed


def random_program(seed: int, profile: NpuProfile) -> tuple[NpuProgram, Int8]:
    """Draw a program of a few passes, with a SYNC only where the ordering rules require one, or at random."""
    activations, weights, parameters = random_memories(profile, seed)
    external = random_constants(weights, parameters) if profile.external_memory_mib else None
    chance = random.Random(seed)
    chosen: list[isa.Instruction] = []

    def legal(instruction: isa.Instruction) -> bool:
        try:
            check_program(make_program(profile, [*chosen, instruction], weights, parameters, external), profile)
        except PackageError:
            return False
        return True

    for _ in range(chance.randint(1, 6)):
        drawn = blocks(chance, profile)
        if external is not None:
            drawn = merge(chance, drawn, transfers(chance, profile, weights, parameters))
        for instruction in drawn:
            if legal(instruction):
                chosen.append(instruction)
            else:
                chosen.append(SYNC_ALL)
                if legal(instruction):
                    chosen.append(instruction)
    return make_program(profile, chosen, weights, parameters, external), activations


def random_constants(weights: Int8, parameters: Int32) -> npt.NDArray[np.uint32]:
    """Return the words of the external memory: the weights and the parameters, each in reverse order."""
    groups = np.pad(parameters[::-1], ((0, 0), (0, 0), (0, 1)))
    return np.concatenate([np.ascontiguousarray(values).reshape(-1).view(np.uint32) for values in (weights[::-1], groups)])


def transfers(chance: random.Random, profile: NpuProfile, weights: Int8, parameters: Int32) -> list[isa.Instruction]:
    """Draw transfers of every kind, and waits for some of them."""
    line, group = profile.columns // 4, 4 * profile.vector_lanes
    constants = weights.size // 4 + parameters.shape[0] * group
    drawn: list[isa.Instruction] = []
    for _ in range(chance.choice((0, 2, 5, 20))):
        kind = chance.randint(0, 4)
        if kind == 0:
            rows = chance.randint(1, len(weights))
            first = chance.randint(0, len(weights) - rows)
            local = chance.randint(0, len(weights) - rows) * line
            drawn.append(isa.Dma(region=isa.Region.WEIGHTS, external=first * line, local=local, words=rows * line))
        elif kind == 1:
            groups = chance.randint(1, 8)
            first = weights.size // 4 + chance.randint(0, len(parameters) - groups) * group
            local = chance.randint(0, len(parameters) - groups) * group
            drawn.append(isa.Dma(region=isa.Region.PARAMETERS, external=first, local=local, words=groups * group))
        elif kind == 2:
            drawn.append(isa.Sync(transfers=1, pending=chance.randint(0, 15)))
        else:
            count, runs = chance.randint(1, chance.choice((8, 80))), chance.randint(1, 4)
            drawn.append(
                isa.Dma(
                    store=int(kind == 3),
                    region=isa.Region.ACTIVATIONS,
                    external=constants + chance.randint(0, 4 * PLANE) * line,
                    local=chance.randint(0, 2 * PLANE) * line,
                    words=count * line,
                    runs=runs,
                    external_pitch=(count + chance.randint(0, 2)) * line,
                    local_pitch=(count + chance.randint(0, 2)) * line,
                )
            )
    return drawn


def merge(chance: random.Random, ordered: list[isa.Instruction], others: list[isa.Instruction]) -> list[isa.Instruction]:
    """Merge two lists at random; each keeps its own order."""
    first, second = list(ordered), list(others)
    merged: list[isa.Instruction] = []
    while first or second:
        merged.append((second if second and (not first or chance.random() < 0.5) else first).pop(0))
    return merged


def blocks(chance: random.Random, profile: NpuProfile) -> list[isa.Instruction]:
    """Draw a shape, some passes onto the same accumulators, and the vector pass that reads them."""
    shape = shapes(chance)
    positions = shape.rows * shape.columns
    bank = chance.randint(0, 1) * profile.accumulator_depth
    accumulator = bank + chance.randint(0, 8)
    drawn: list[isa.Instruction] = [shape]
    for number in range(chance.randint(1, 4)):
        drawn += passes(chance, profile, shape, accumulator, accumulate=int(number > 0))
    drawn += [isa.Sync(array=1)]
    add = chance.randint(0, 1)
    if add:
        drawn.append(residuals(chance))
    drawn.append(vectors(chance, profile, accumulator, positions, add))
    return drawn


def shapes(chance: random.Random) -> isa.Shape:
    height, width = chance.randint(1, 8), chance.randint(1, 8)
    step_rows, step_columns = chance.randint(0, 3), chance.randint(0, 3)
    return isa.Shape(
        height=height,
        width=width,
        rows=chance.randint(1, 9),
        columns=chance.randint(1, 9),
        row_step=step_rows,
        column_step=step_columns,
        row_pitch=step_rows * width,
        column_pitch=step_columns,
        padding=chance.randint(-128, 127),
    )


def passes(
    chance: random.Random, profile: NpuProfile, shape: isa.Shape, accumulator: int, accumulate: int
) -> list[isa.Instruction]:
    kind = chance.choice([isa.Gemm, isa.Gemm, isa.Dw, isa.Pool])
    top, left = chance.randint(-3, 3), chance.randint(-3, 3)
    unit = depthwise_unit(profile)
    limits = {isa.Gemm: (2, 2), isa.Dw: (unit.rows, unit.columns), isa.Pool: (3, 2)}[kind]
    swap = 0 if kind is isa.Pool else int(chance.randint(0, 3) > 0)
    drawn: list[isa.Instruction] = []
    if swap:
        drawn.append(isa.LoadW(address=chance.randint(0, 32), rows=chance.randint(1, profile.rows)))
    dilations = chance.randint(0, 3), chance.randint(0, 3)
    if kind is isa.Dw:
        dilations = chance.choice([1, shape.row_step]), chance.choice([1, shape.column_step])
    drawn.append(
        kind(
            base=(chance.randint(0, 3) * PLANE + top * shape.width + left) & 0xFFFF,
            top=top,
            left=left,
            accumulator=accumulator,
            kernel_rows=chance.randint(1, limits[0]),
            kernel_columns=chance.randint(1, limits[1]),
            row_dilation=dilations[0],
            column_dilation=dilations[1],
            tap_row_pitch=dilations[0] * shape.width,
            tap_column_pitch=dilations[1],
            accumulate=accumulate,
            swap=swap,
            maximum=int(kind is isa.Pool and chance.random() < 0.5),
        )
    )
    return drawn


def clamps(chance: random.Random) -> tuple[int, int]:
    if chance.randint(0, 3):
        return -128, 127
    low, high = sorted((chance.randint(-128, 127), chance.randint(-128, 127)))
    return low, high


def residuals(chance: random.Random) -> isa.Residual:
    low, high = clamps(chance)
    zeros = [chance.randint(-128, 127) for _ in range(3)]
    return isa.Residual(
        main_zero=zeros[0],
        other_zero=zeros[1],
        main_multiplier=chance.choice((1 << 14, chance.randint(0, (1 << 15) - 1))),
        other_multiplier=chance.choice((1 << 14, chance.randint(0, (1 << 15) - 1))),
        shift=chance.choice((chance.randint(14, 17), chance.randint(1, 31))),
        zero=zeros[2],
        low=low,
        high=high,
    )


def vectors(chance: random.Random, profile: NpuProfile, accumulator: int, positions: int, add: int) -> isa.Vec:
    low, high = clamps(chance)
    count = chance.choice([positions, chance.randint(1, positions)])  # often all: consecutive passes meet at the last one
    return isa.Vec(
        accumulator=accumulator,
        count=count,
        parts=chance.randint(1, profile.rows // profile.columns),
        destination=chance.randint(0, 3) * 2 * PLANE,
        part_pitch=count + chance.randint(0, 3),
        parameters=chance.randint(0, 8),
        residual=chance.randint(0, 3) * 2 * PLANE,
        zero=chance.choice((0, chance.randint(-128, 127))),
        low=low,
        high=high,
        add=add,
    )
