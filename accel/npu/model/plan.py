"""Resolve a program into steps that need no more instruction decoding: addresses, weights, settings.

Consecutive GEMM passes into the same accumulators become one matrix product over all their taps, because integer addition is
associative.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.npu import isa
from accel.npu.arithmetic import LARGEST_PRODUCT, LARGEST_SHIFT, Int8, Int32, Range, ResidualScale
from accel.npu.depthwise import depthwise_unit
from accel.npu.geometry import visits
from accel.npu.model.checks import check_program
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram

Weights = npt.NDArray[np.float32] | npt.NDArray[np.float64]
MAX_EXACT_TERMS = {np.float32: (1 << 24) // LARGEST_PRODUCT, np.float64: (1 << 53) // (LARGEST_PRODUCT << LARGEST_SHIFT)}
"""The longest dot product that a float type computes exactly, in any order of the terms; float64 includes the shifts."""


@dataclass(slots=True)
class MatrixStep:
    """GEMM passes: addresses [positions, taps], weights [taps x columns, rows]: float32, or float64 with their shifts applied."""

    addresses: npt.NDArray[np.int64]
    weights: Weights
    accumulator: int
    accumulate: bool


@dataclass(slots=True)
class TapStep:
    """A DW or POOL pass: addresses [positions, taps], weights [taps, columns] or None."""

    addresses: npt.NDArray[np.int64]
    weights: Int32 | None
    accumulator: int
    accumulate: bool
    maximum: bool


@dataclass(slots=True)
class VectorPart:
    """One block of `columns` lanes of a VEC instruction."""

    bias: Int32
    multiplier: Int32
    shift: Int32
    destination: int
    residual: int


@dataclass(slots=True)
class VectorStep:
    """A VEC instruction."""

    accumulator: int
    count: int
    parts: list[VectorPart]
    output: Range
    residual: ResidualScale | None


@dataclass(slots=True)
class TransferStep:
    """A DMA of activations: each run of `count` vectors begins at (local vector, tensor vector)."""

    store: bool
    count: int
    runs: list[tuple[int, int]]


Step = MatrixStep | TapStep | VectorStep | TransferStep


@dataclass(slots=True)
class Plan:
    """The steps, and the padding values, whose vectors follow the activation memory."""

    steps: list[Step] = field(default_factory=list)
    paddings: list[int] = field(default_factory=list)
    tensors_begin: int = 0
    """The first external vector after the program's constants; tensor vectors count from it."""
    tensor_vectors: int = 0
    """Number of tensor vectors that the program's transfers access."""


def plan(program: NpuProgram, profile: NpuProfile) -> Plan:
    """Check `program` (checks.py) and resolve it."""
    instructions = check_program(program, profile)
    planner = _Planner(program, profile)
    for instruction in instructions:
        planner.add(instruction)
    return planner.plan


class _Planner:
    """State of the settings, the weight registers and the constant memories at one instruction."""

    def __init__(self, program: NpuProgram, profile: NpuProfile) -> None:
        self._profile = profile
        self._vector_words = profile.columns // 4
        self.plan = Plan(tensors_begin=-(-len(program.external) // self._vector_words))
        self._external = program.external
        self._weights = _filled((profile.weight_rows, profile.columns), program.weights)
        self._parameters = _filled((profile.parameter_groups, profile.vector_lanes, 3), program.parameters)
        self._shape: isa.Shape | None = None
        self._residual: isa.Residual | None = None
        self._shadow: Int8 = np.zeros((profile.rows, profile.columns), np.int8)
        self._live: Int8 = self._shadow.copy()
        self._shadow_shifts: Int8 = np.zeros(profile.rows, np.int8)
        self._live_shifts: Int8 = self._shadow_shifts.copy()

    def add(self, instruction: isa.Instruction) -> None:
        """Update the state, and append the step of the instruction if it has one."""
        if isinstance(instruction, isa.Shape):
            self._shape = instruction
        elif isinstance(instruction, isa.Residual):
            self._residual = instruction
        elif isinstance(instruction, isa.LoadW):
            self._load(instruction)
        elif isinstance(instruction, isa.ArrayPass):
            self._array_pass(instruction)
        elif isinstance(instruction, isa.Vec):
            self.plan.steps.append(self._vector(instruction))
        elif isinstance(instruction, isa.Dma):
            self._transfer(instruction)

    def _load(self, instruction: isa.LoadW) -> None:
        first = instruction.address + self._profile.shift_rows
        rows = self._weights[first : first + instruction.rows]
        self._shadow = np.concatenate([rows, self._shadow[instruction.rows :]])
        if self._profile.shift_rows:
            self._shadow_shifts = self._weights[instruction.address : first].reshape(-1) & LARGEST_SHIFT

    def _transfer(self, transfer: isa.Dma) -> None:
        """Load constants now, because they are known; activations are transferred when the program runs."""
        if transfer.region == isa.Region.ACTIVATIONS:
            self.plan.steps.append(self._activations(transfer))
            return
        if transfer.region == isa.Region.PROGRAM:
            return  # trace.py has resolved it
        for run in range(transfer.runs):
            external, local = transfer.external + run * transfer.external_pitch, transfer.local + run * transfer.local_pitch
            words = self._external[external : external + transfer.words]
            if transfer.region == isa.Region.WEIGHTS:
                first = local // self._vector_words
                rows = words.view(np.int8).reshape(-1, self._profile.columns)
                self._weights[first : first + len(rows)] = rows
            else:
                first = local // (4 * self._profile.vector_lanes)
                groups = words.view(np.int32).reshape(-1, self._profile.vector_lanes, 4)[..., :3]
                self._parameters[first : first + len(groups)] = groups

    def _activations(self, transfer: isa.Dma) -> TransferStep:
        words, begin = self._vector_words, self.plan.tensors_begin
        runs = [
            (
                (transfer.local + run * transfer.local_pitch) // words,
                (transfer.external + run * transfer.external_pitch) // words - begin,
            )
            for run in range(transfer.runs)
        ]
        count = transfer.words // words
        self.plan.tensor_vectors = max(self.plan.tensor_vectors, runs[-1][1] + count)
        return TransferStep(bool(transfer.store), count, runs)

    def _array_pass(self, instruction: isa.ArrayPass) -> None:
        assert self._shape is not None
        if instruction.swap:
            self._live, self._live_shifts = self._shadow, self._shadow_shifts
        visited = visits(self._shape, instruction)
        addresses = np.where(visited.inside, visited.addresses, self._padding_address(self._shape.padding)).T
        accumulator, accumulate = instruction.accumulator, bool(instruction.accumulate)
        if isinstance(instruction, isa.Gemm):
            self._add_matrix(MatrixStep(addresses, self._matrix(addresses.shape[1]), accumulator, accumulate))
            return
        taps = self._kernel(instruction) if isinstance(instruction, isa.Dw) else None
        self.plan.steps.append(TapStep(addresses, taps, accumulator, accumulate, bool(instruction.maximum)))

    def _matrix(self, taps: int) -> Weights:
        if not self._profile.shift_rows:
            return np.tile(self._live.T.astype(np.float32), (taps, 1))
        shifted = self._live.T.astype(np.float64) * np.exp2(self._live_shifts.astype(np.float64))
        return np.tile(shifted, (taps, 1))

    def _kernel(self, instruction: isa.Dw) -> Int32:
        unit, columns = depthwise_unit(self._profile), instruction.kernel_columns
        taps = [(row, column) for row in range(instruction.kernel_rows) for column in range(columns)]
        return self._live[[unit.weight_row(row, column, columns) for row, column in taps]].astype(np.int32)

    def _add_matrix(self, step: MatrixStep) -> None:
        last = self.plan.steps[-1] if self.plan.steps else None
        if (
            isinstance(last, MatrixStep)
            and step.accumulate
            and (last.accumulator, len(last.addresses)) == (step.accumulator, len(step.addresses))
            and len(last.weights) + len(step.weights) <= MAX_EXACT_TERMS[step.weights.dtype.type]
        ):
            last.addresses = np.concatenate([last.addresses, step.addresses], axis=1)
            last.weights = np.concatenate([last.weights, step.weights])
            return
        self.plan.steps.append(step)

    def _padding_address(self, value: int) -> int:
        if value not in self.plan.paddings:
            self.plan.paddings.append(value)
        return self._profile.activation_vectors + self.plan.paddings.index(value)

    def _vector(self, instruction: isa.Vec) -> VectorStep:
        groups = self._profile.lane_groups
        parts = []
        for part in range(instruction.parts):
            first = instruction.parameters + part * groups
            lanes = self._parameters[first : first + groups].reshape(-1, 3)
            offset = part * instruction.part_pitch
            bias, multiplier, shift = (np.ascontiguousarray(lanes[:, word]) for word in range(3))
            parts.append(VectorPart(bias, multiplier, shift, instruction.destination + offset, instruction.residual + offset))
        output = Range(instruction.zero, instruction.low, instruction.high)
        residual = self._residual_scale() if instruction.add else None
        return VectorStep(instruction.accumulator, instruction.count, parts, output, residual)

    def _residual_scale(self) -> ResidualScale:
        residual = self._residual
        assert residual is not None
        return ResidualScale(
            main_zero=residual.main_zero,
            other_zero=residual.other_zero,
            main_multiplier=residual.main_multiplier,
            other_multiplier=residual.other_multiplier,
            shift=residual.shift,
            output=Range(residual.zero, residual.low, residual.high),
        )


def _filled(shape: tuple[int, ...], first: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a memory of `shape` that holds `first` at its beginning."""
    memory = np.zeros(shape, first.dtype)
    memory[: len(first)] = first
    return memory
