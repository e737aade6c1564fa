"""Refuse a program that could read or write where it must not, before any machine runs it.

Two kinds of rule (docs/spec/npu.md, N70-N79): *limits* (every address inside its memory, every setting one that the hardware
has) and *order*: the loader, the array and the vector unit work side by side, so an instruction that touches what another
unit still works on needs a SYNC before it. A program that passes has exactly one result, whatever the timing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accel.npu import isa
from accel.npu.arithmetic import MAX_SHIFT
from accel.npu.depthwise import LINE_COLUMNS, depthwise_unit, walk
from accel.npu.geometry import ADDRESS_MASK, visits
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram
from edgewright.errors import PackageError

Span = tuple[int, int]
"""First and last address, both included."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What an instruction in flight reads and writes."""

    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    accumulators: Span = (0, -1)
    bank: int = -1


def check_program(program: NpuProgram, profile: NpuProfile) -> list[isa.Instruction]:
    """Return the decoded instructions; raise `PackageError` naming the first instruction that breaks a rule."""
    program.check_profile(profile)
    _check_memories(program, profile)
    _check_description(program, profile)
    instructions = isa.decode(program.instructions)
    if not instructions or not isinstance(instructions[-1], isa.Halt):
        raise PackageError("an NPU program must end with HALT")
    checker = _Checker(program, profile)
    for place, instruction in enumerate(instructions):
        try:
            checker.take(instruction, is_last=place == len(instructions) - 1)
        except _RuleBrokenError as broken:
            raise PackageError(f"instruction {place} ({instruction.opcode.name}): {broken}") from None
    return instructions


def _check_memories(program: NpuProgram, profile: NpuProfile) -> None:
    parameters, weights = program.parameters, program.weights
    _check_size("instructions", len(program.instructions), profile.instructions, profile)
    _check_size("weight rows", len(weights), profile.weight_rows, profile)
    _check_size("parameter groups", len(parameters), profile.parameter_groups, profile)
    if weights.shape[1] != profile.columns or parameters.shape[1:] != (profile.vector_lanes, 3):
        raise PackageError(
            f"weight rows must have {profile.columns} bytes and parameter groups {profile.vector_lanes} lanes of 3 words, "
            f"not {weights.shape[1]} and {parameters.shape[1:]}"
        )
    if np.any(weights == -128):
        raise PackageError("weights must be between -127 and 127: -128 overflows the paired multiplier")
    if np.any(parameters[..., 1] < 0) or np.any((parameters[..., 2] < 1) | (parameters[..., 2] > MAX_SHIFT)):
        raise PackageError(f"multipliers must not be negative, and shifts must be between 1 and {MAX_SHIFT}")


def _check_description(program: NpuProgram, profile: NpuProfile) -> None:
    description, room = program.description, profile.activation_vectors
    for place in (*description.inputs, *description.outputs):
        sizes = (place.channels, place.height, place.width, place.stored_channels, place.stored_width)
        if min(sizes) < 1 or place.base < 0 or place.base + place.vectors(profile.columns) > room:
            raise PackageError(f"{place.name} must lie within the {room} vectors of {profile.name}: the program is damaged")
    ends = [end for layer in description.layers for end in (layer.first, layer.last)]
    if ends != sorted(ends) or (ends and not 0 <= ends[0] <= ends[-1] < len(program.instructions)):
        raise PackageError("the layers must follow one another within the instructions: the program is damaged")


def _check_size(what: str, found: int, limit: int, profile: NpuProfile) -> None:
    if found > limit:
        raise PackageError(f"{profile.name} has room for {limit} {what}, but the program has {found}")


class _RuleBrokenError(Exception):
    """The text of a broken rule, before the place is known."""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _RuleBrokenError(otherwise)


class _Checker:
    """Walks through a program with what is set up and what may still be in flight."""

    def __init__(self, program: NpuProgram, profile: NpuProfile) -> None:
        self._profile = profile
        self._weight_rows = len(program.weights)
        self._parameter_groups = len(program.parameters)
        self._shape: isa.Shape | None = None
        self._has_residual = False
        self._written = np.zeros(2 * profile.accumulator_depth, np.bool_)
        self._array_in_flight: list[Touched] = []
        self._vector_in_flight: Touched | None = None

    def take(self, instruction: isa.Instruction, *, is_last: bool) -> None:
        if isinstance(instruction, isa.Halt):
            _require(is_last, "HALT must be the last instruction")
        elif isinstance(instruction, isa.Sync):
            self._synchronize(instruction)
        elif isinstance(instruction, isa.Shape):
            self._set_shape(instruction)
        elif isinstance(instruction, isa.LoadW):
            self._load(instruction)
        elif isinstance(instruction, isa.ArrayPass):
            self._start_array(instruction)
        elif isinstance(instruction, isa.Residual):
            _require(instruction.shift >= 1 and instruction.low <= instruction.high, "shift must be 1 or more, and low <= high")
            self._has_residual = True
            self._vector_in_flight = None  # it waits for the vector unit
        elif isinstance(instruction, isa.Vec):
            self._start_vector(instruction)

    def _synchronize(self, instruction: isa.Sync) -> None:
        if instruction.array:
            self._array_in_flight = []
        if instruction.vector:
            self._vector_in_flight = None

    def _set_shape(self, shape: isa.Shape) -> None:
        positions = shape.rows * shape.columns
        _require(
            1 <= positions <= self._profile.accumulator_depth,
            f"rows x columns must be 1 to {self._profile.accumulator_depth} positions, not {positions}",
        )
        self._shape = shape

    def _load(self, instruction: isa.LoadW) -> None:
        _require(1 <= instruction.rows <= self._profile.rows, f"rows must be 1 to {self._profile.rows}, not {instruction.rows}")
        end = instruction.address + instruction.rows
        _require(end <= self._weight_rows, f"the program has {self._weight_rows} weight rows, but rows up to {end} are loaded")

    def _start_array(self, instruction: isa.ArrayPass) -> None:
        if self._shape is None:
            raise _RuleBrokenError("a SHAPE must come first")
        taps = instruction.kernel_rows * instruction.kernel_columns
        _require(taps >= 1, "a kernel must have at least one row and one column")
        _check_flags(instruction)
        if isinstance(instruction, isa.Dw):
            _check_window(instruction, self._shape, self._profile)
        span = visits(self._shape, instruction).span
        depth = self._profile.activation_vectors
        _require(span is None or span[1] < depth, f"activations end at {depth}, but {span and span[1]} is read")
        accumulators = self._bank_span(instruction.accumulator, self._shape.rows * self._shape.columns)
        touched = Touched((span,) if span else (), (), accumulators, accumulators[0] // self._profile.accumulator_depth)
        self._check_against_vector(touched)
        entries = self._written[accumulators[0] : accumulators[1] + 1]
        _require(bool(not instruction.accumulate or entries.all()), "the accumulators must be set before they are added to")
        entries[:] = True
        for earlier in self._array_in_flight:
            same = earlier.accumulators[0] == accumulators[0]
            _require(
                same or not _overlap(earlier.accumulators, accumulators),
                f"accumulators {accumulators} overlap those of an earlier pass {earlier.accumulators}; SYNC array first",
            )
        self._array_in_flight.append(touched)

    def _start_vector(self, instruction: isa.Vec) -> None:
        profile = self._profile
        _require(
            instruction.count >= 1 and 1 <= instruction.parts <= profile.rows // profile.columns,
            f"count must be 1 or more and parts 1 to {profile.rows // profile.columns}",
        )
        _require(instruction.low <= instruction.high, "low must not be over high")
        end = instruction.parameters + instruction.parts * profile.lane_groups
        _require(end <= self._parameter_groups, f"the program has {self._parameter_groups} parameter groups, {end} are used")
        _require(self._has_residual or not instruction.add, "a RESIDUAL must come first")
        accumulators = self._bank_span(instruction.accumulator, instruction.count)
        _require(bool(self._written[accumulators[0] : accumulators[1] + 1].all()), "the accumulators must be set first")
        writes = self._part_spans(instruction, instruction.destination)
        reads = self._part_spans(instruction, instruction.residual) if instruction.add else ()
        _require(instruction.parts == 1 or instruction.part_pitch >= instruction.count, "part_pitch must be at least count")
        _require(
            not instruction.add or instruction.residual == instruction.destination or not _any_overlap(reads, writes),
            "the residual must be the destination or apart from it",
        )
        touched = Touched(reads, writes, accumulators, accumulators[0] // profile.accumulator_depth)
        for earlier in self._array_in_flight:
            _check_apart(touched, earlier)
        self._vector_in_flight = touched  # it waited for the one before

    def _check_against_vector(self, touched: Touched) -> None:
        if self._vector_in_flight is not None:
            _check_apart(self._vector_in_flight, touched)

    def _bank_span(self, first: int, count: int) -> Span:
        depth, last = self._profile.accumulator_depth, first + count - 1
        _require(last < 2 * depth and first // depth == last // depth, f"accumulators {first} to {last} must lie in one bank")
        return first, last

    def _part_spans(self, instruction: isa.Vec, start: int) -> tuple[Span, ...]:
        starts = [start + part * instruction.part_pitch for part in range(instruction.parts)]
        spans = tuple((first, first + instruction.count - 1) for first in starts)
        depth = self._profile.activation_vectors
        _require(spans[-1][1] < depth, f"activations end at {depth}, but {spans[-1][1]} is used")
        return spans


def _check_flags(instruction: isa.ArrayPass) -> None:
    is_pool = isinstance(instruction, isa.Pool)
    _require(is_pool or not instruction.maximum, "only POOL takes a maximum")
    _require(not is_pool or not instruction.swap, "POOL uses no weights to swap")


def _check_window(instruction: isa.Dw, shape: isa.Shape, profile: NpuProfile) -> None:
    """DW walks the input itself, row by row, so the grid and the kernel must agree with that walk (N27)."""
    unit, kernel = depthwise_unit(profile), (instruction.kernel_rows, instruction.kernel_columns)
    _require(
        kernel[0] <= unit.rows and kernel[1] <= unit.columns,
        f"DW takes kernels of up to {unit.rows} x {unit.columns} in one pass, not {kernel[0]} x {kernel[1]}",
    )
    _require_walk(shape.row_step, instruction.row_dilation, shape.row_pitch, instruction.tap_row_pitch)
    _require_walk(shape.column_step, instruction.column_dilation, shape.column_pitch, instruction.tap_column_pitch)
    columns = walk(shape, instruction)[1]
    _require(columns <= LINE_COLUMNS, f"DW visits rows of up to {LINE_COLUMNS} vectors, not {columns}")


def _require_walk(step: int, dilation: int, pitch: int, tap_pitch: int) -> None:
    _require(
        step >= 1 and dilation in (1, step),
        f"DW takes a step of 1 or more, and a dilation of 1 or the step, not {step} and {dilation}",
    )
    _require((pitch - step // dilation * tap_pitch) & ADDRESS_MASK == 0, "the pitches of a DW pass must agree with its steps")


def _check_apart(vector: Touched, array: Touched) -> None:
    _require(vector.bank != array.bank, f"VEC and the array both use accumulator bank {vector.bank}; SYNC first")
    _require(
        not _any_overlap(vector.writes, array.reads),
        f"VEC writes activations {vector.writes} while the array reads {array.reads}; SYNC first",
    )


def _overlap(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _any_overlap(ones: tuple[Span, ...], others: tuple[Span, ...]) -> bool:
    return any(_overlap(one, other) for one in ones for other in others)
