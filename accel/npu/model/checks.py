"""Reject invalid programs before a machine runs them.

There are two kinds of rule (docs/spec/npu.md, N70-N79). *Limits*: every address is inside its memory, and the hardware supports
every setting. *Order*: the loader, the array, the vector unit and the DMA work in parallel, so an instruction needs a SYNC before
it accesses memory that another unit still uses. The result of a valid program does not depend on timing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from accel.npu import isa
from accel.npu.arithmetic import MAX_SHIFT
from accel.npu.depthwise import LINE_COLUMNS, depthwise_unit, walk
from accel.npu.geometry import ADDRESS_MASK, visited_span
from accel.npu.model.trace import trace
from accel.npu.model.transfers import RuleViolationError, TransfersInFlight, check_transfer, local_lines, require
from accel.npu.profile import NpuProfile
from accel.npu.program import EXTERNAL_BASE, NpuProgram
from edgewright.errors import PackageError

Span = tuple[int, int]
"""First and last address, both included."""


@dataclass(frozen=True, slots=True)
class MemoryAccess:
    """The memory that a VEC in flight reads and writes."""

    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    accumulators: Span = (0, -1)
    parameters: Span = (0, -1)


@lru_cache(maxsize=2)
def check_program(program: NpuProgram, profile: NpuProfile) -> tuple[isa.Instruction, ...]:
    """Return the decoded instructions in order of execution.

    Raises:
        PackageError: an instruction violates a rule; the message names the first one.
    """
    program.check_profile(profile)
    _check_memories(program, profile)
    _check_description(program, profile)
    placed = trace(program, profile)
    _check_layers(program, len(placed))
    checker = _Checker(program, profile)
    for number, (place, instruction) in enumerate(placed):
        try:
            checker.check(instruction, place)
        except RuleViolationError as error:
            raise PackageError(f"instruction {number} ({instruction.opcode.name}): {error}") from None
    return tuple(instruction for _, instruction in placed)


def _check_memories(program: NpuProgram, profile: NpuProfile) -> None:
    parameters, weights = program.parameters, program.weights
    _check_size("instructions", len(program.instructions), profile.instructions, profile)
    _check_size("weight rows", len(weights), profile.weight_rows, profile)
    _check_size("parameter groups", len(parameters), profile.parameter_groups, profile)
    _check_size("words in its external memory", len(program.external), profile.external_words, profile)
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
    description = program.description
    for place in (*description.inputs, *description.outputs):
        sizes = (place.channels, place.height, place.width, place.stored_channels, place.stored_width)
        is_external = place.base >= EXTERNAL_BASE
        room = EXTERNAL_BASE + profile.external_words * 4 // profile.columns if is_external else profile.activation_vectors
        if min(sizes) < 1 or place.base < 0 or place.base + place.vectors(profile.columns) > room:
            raise PackageError(f"{place.name} must fit within the {room} vectors of {profile.name}: the program is damaged")


def _check_layers(program: NpuProgram, instructions: int) -> None:
    ends = [end for layer in program.description.layers for end in (layer.first, layer.last)]
    if ends != sorted(ends) or (ends and not 0 <= ends[0] <= ends[-1] < instructions):
        raise PackageError("the instructions of the layers must be consecutive: the program is damaged")


def _check_size(unit: str, size: int, limit: int, profile: NpuProfile) -> None:
    if size > limit:
        raise PackageError(f"{profile.name} has room for {limit} {unit}, but the program has {size}")


class _Checker:
    """State of the machine at one instruction: its settings and the work that may still be in flight."""

    def __init__(self, program: NpuProgram, profile: NpuProfile) -> None:
        self._profile = profile
        self._external = program.external
        self._last_place = len(program.instructions) - 1
        self._has_pages = False
        self._loaded_weights = np.arange(profile.weight_rows) < len(program.weights)
        self._loaded_parameters = np.arange(profile.parameter_groups) < len(program.parameters)
        self._shape: isa.Shape | None = None
        self._has_residual = False
        self._written = np.zeros(2 * profile.accumulator_depth, np.bool_)
        self._loader_in_flight: Span = (0, -1)
        self._array_spans: list[Span] = []
        self._array_reads = np.zeros(profile.activation_vectors, np.bool_)
        """The activations that array passes in flight read."""
        self._vector_in_flight: MemoryAccess | None = None
        self._transfers = TransfersInFlight(profile)

    def check(self, instruction: isa.Instruction, place: int) -> None:
        """Check the instruction at `place` of the program memory, and record the settings and the work that it starts.

        Raises:
            RuleViolationError: the instruction violates a rule.
        """
        require(not self._transfers.writes(isa.Region.PROGRAM, (place, place)), "it may still be in transfer; SYNC first")
        if isinstance(instruction, isa.Halt):
            require(self._has_pages or place == self._last_place, "HALT must be the last instruction")
        elif isinstance(instruction, isa.Sync):
            self._synchronize(instruction)
        elif isinstance(instruction, isa.Shape):
            self._set_shape(instruction)
        elif isinstance(instruction, isa.LoadW):
            self._load(instruction)
        elif isinstance(instruction, isa.ArrayPass):
            self._start_array(instruction)
        elif isinstance(instruction, isa.Residual):
            require(instruction.shift >= 1 and instruction.low <= instruction.high, "shift must be 1 or more, and low <= high")
            self._has_residual = True
            self._vector_in_flight = None  # RESIDUAL waits for the vector unit
        elif isinstance(instruction, isa.Vec):
            self._start_vector(instruction)
        elif isinstance(instruction, isa.Dma):
            self._start_transfer(instruction)

    def _synchronize(self, instruction: isa.Sync) -> None:
        if instruction.loader:
            self._loader_in_flight = (0, -1)
        if instruction.array:
            self._array_spans = []
            self._array_reads[:] = False
        if instruction.vector:
            self._vector_in_flight = None
        if instruction.transfers:
            self._transfers.leave(instruction.pending)

    def _set_shape(self, shape: isa.Shape) -> None:
        positions = shape.rows * shape.columns
        require(
            1 <= positions <= self._profile.accumulator_depth,
            f"rows x columns must be 1 to {self._profile.accumulator_depth} positions, not {positions}",
        )
        self._shape = shape

    def _load(self, instruction: isa.LoadW) -> None:
        require(1 <= instruction.rows <= self._profile.rows, f"rows must be 1 to {self._profile.rows}, not {instruction.rows}")
        end = instruction.address + self._profile.shift_rows + instruction.rows
        loaded = self._loaded_weights
        if end > len(loaded) or not loaded[instruction.address : end].all():
            raise RuleViolationError(f"the program has {int(loaded.sum())} weight rows, but rows up to {end} are used")
        self._loader_in_flight = instruction.address, end - 1  # LOADW waits for the previous one
        self._require_complete(isa.Region.WEIGHTS, self._loader_in_flight)

    def _start_array(self, instruction: isa.ArrayPass) -> None:
        if self._shape is None:
            raise RuleViolationError("a SHAPE must come first")
        taps = instruction.kernel_rows * instruction.kernel_columns
        require(taps >= 1, "a kernel must have at least one row and one column")
        _check_flags(instruction)
        if isinstance(instruction, isa.Dw):
            _check_window(instruction, self._shape, self._profile)
        span = visited_span(self._shape, instruction)
        depth = self._profile.activation_vectors
        require(span is None or span[1] < depth, f"activations end at {depth}, but {span and span[1]} is read")
        accumulators = self._bank_span(instruction.accumulator, self._shape.rows * self._shape.columns)
        if self._vector_in_flight is not None:
            self._check_banks(self._vector_in_flight.accumulators, accumulators)
        if span is not None:
            self._check_reads(span)
        if instruction.swap:
            self._loader_in_flight = (0, -1)
        entries = self._written[accumulators[0] : accumulators[1] + 1]
        require(bool(not instruction.accumulate or entries.all()), "the accumulators must be set before they are added to")
        entries[:] = True
        for earlier in self._array_spans:
            require(
                earlier[0] == accumulators[0] or not _overlap(earlier, accumulators),
                f"accumulators {accumulators} overlap those of an earlier pass {earlier}; SYNC array first",
            )
        if accumulators not in self._array_spans:
            self._array_spans.append(accumulators)

    def _check_reads(self, span: Span) -> None:
        """Check the activations that an array pass reads, and record them."""
        self._require_complete(isa.Region.ACTIVATIONS, span)
        written = self._vector_in_flight.writes if self._vector_in_flight is not None else ()
        require(not _any_overlap(written, (span,)), f"VEC writes activations {written} while the array reads {span}; SYNC first")
        self._array_reads[span[0] : span[1] + 1] = True

    def _start_vector(self, instruction: isa.Vec) -> None:
        profile = self._profile
        require(
            instruction.count >= 1 and 1 <= instruction.parts <= profile.rows // profile.columns,
            f"count must be 1 or more and parts 1 to {profile.rows // profile.columns}",
        )
        require(instruction.low <= instruction.high, "low must not be over high")
        end = instruction.parameters + instruction.parts * profile.lane_groups
        loaded = self._loaded_parameters
        if end > len(loaded) or not loaded[instruction.parameters : end].all():
            raise RuleViolationError(f"the program has {int(loaded.sum())} parameter groups, but groups up to {end} are used")
        require(self._has_residual or not instruction.add, "a RESIDUAL must come first")
        accumulators = self._bank_span(instruction.accumulator, instruction.count)
        require(bool(self._written[accumulators[0] : accumulators[1] + 1].all()), "the accumulators must be set first")
        writes = self._part_spans(instruction, instruction.destination)
        reads = self._part_spans(instruction, instruction.residual) if instruction.add else ()
        require(instruction.parts == 1 or instruction.part_pitch >= instruction.count, "part_pitch must be at least count")
        require(
            not instruction.add or instruction.residual == instruction.destination or not _any_overlap(reads, writes),
            "the residual must be the destination, or must not overlap it",
        )
        parameters = (instruction.parameters, end - 1)
        for earlier in self._array_spans:
            self._check_banks(accumulators, earlier)
        self._require_complete(isa.Region.PARAMETERS, parameters)
        for span in (*reads, *writes):
            self._require_complete(isa.Region.ACTIVATIONS, span)
        for first, last in writes:
            is_read = bool(self._array_reads[first : last + 1].any())
            require(not is_read, f"VEC writes activations {(first, last)} while the array reads them; SYNC first")
            is_stored = self._transfers.reads((first, last))
            require(not is_stored, f"activations {(first, last)} may still be in transfer to memory; SYNC first")
        self._vector_in_flight = MemoryAccess(reads, writes, accumulators, parameters)  # VEC waits for the previous one

    def _start_transfer(self, transfer: isa.Dma) -> None:
        check_transfer(transfer, self._profile, self._external)
        region = isa.Region(transfer.region)
        self._has_pages |= region is isa.Region.PROGRAM
        in_use = list(self._in_use(region, reading=bool(transfer.store)))
        for lines in local_lines(transfer, self._profile):
            is_read = region is isa.Region.ACTIVATIONS and not transfer.store and self._array_reads[lines[0] : lines[1] + 1].any()
            is_free = not is_read and not _any_overlap((lines,), in_use)
            require(is_free, f"lines {lines} of the {region.name.lower()} memory are in use; SYNC first")
            if region in (isa.Region.WEIGHTS, isa.Region.PARAMETERS):
                loaded = self._loaded_weights if region is isa.Region.WEIGHTS else self._loaded_parameters
                loaded[lines[0] : lines[1] + 1] = True
        self._transfers.issue(transfer)

    def _in_use(self, region: isa.Region, *, reading: bool) -> Iterator[Span]:
        """Yield the spans of a region that conflict with a transfer: a transfer that reads conflicts only with writes."""
        vector = self._vector_in_flight or MemoryAccess()
        if region is isa.Region.WEIGHTS:
            yield self._loader_in_flight
        elif region is isa.Region.PARAMETERS:
            yield vector.parameters
        elif region is isa.Region.ACTIVATIONS:
            yield from vector.writes
            if not reading:
                yield from vector.reads

    def _require_complete(self, region: isa.Region, span: Span) -> None:
        """Require that no transfer in flight writes the span."""
        is_written = self._transfers.writes(region, span)
        require(not is_written, f"lines {span} of the {region.name.lower()} memory may still be in transfer; SYNC first")

    def _check_banks(self, vector: Span, array: Span) -> None:
        bank = vector[0] // self._profile.accumulator_depth
        is_apart = bank != array[0] // self._profile.accumulator_depth
        require(is_apart, f"VEC and the array both use accumulator bank {bank}; SYNC first")

    def _bank_span(self, first: int, count: int) -> Span:
        depth, last = self._profile.accumulator_depth, first + count - 1
        require(last < 2 * depth and first // depth == last // depth, f"accumulators {first} to {last} must be in one bank")
        return first, last

    def _part_spans(self, instruction: isa.Vec, start: int) -> tuple[Span, ...]:
        starts = [start + part * instruction.part_pitch for part in range(instruction.parts)]
        spans = tuple((first, first + instruction.count - 1) for first in starts)
        depth = self._profile.activation_vectors
        require(spans[-1][1] < depth, f"activations end at {depth}, but {spans[-1][1]} is used")
        return spans


def _check_flags(instruction: isa.ArrayPass) -> None:
    is_pool = isinstance(instruction, isa.Pool)
    require(is_pool or not instruction.maximum, "only POOL supports maximum")
    require(not is_pool or not instruction.swap, "POOL uses no weights to swap")


def _check_window(instruction: isa.Dw, shape: isa.Shape, profile: NpuProfile) -> None:
    """Check that the grid and the kernel of a DW match the order in which the unit reads the input (N27)."""
    unit, kernel = depthwise_unit(profile), (instruction.kernel_rows, instruction.kernel_columns)
    require(
        kernel[0] <= unit.rows and kernel[1] <= unit.columns,
        f"DW supports kernels of up to {unit.rows} x {unit.columns} in one pass, not {kernel[0]} x {kernel[1]}",
    )
    _require_walk(shape.row_step, instruction.row_dilation, shape.row_pitch, instruction.tap_row_pitch)
    _require_walk(shape.column_step, instruction.column_dilation, shape.column_pitch, instruction.tap_column_pitch)
    columns = walk(shape, instruction)[1]
    require(columns <= LINE_COLUMNS, f"DW reads rows of up to {LINE_COLUMNS} vectors, not {columns}")


def _require_walk(step: int, dilation: int, pitch: int, tap_pitch: int) -> None:
    require(
        step >= 1 and dilation in (1, step),
        f"DW supports a step of 1 or more, and a dilation of 1 or the step, not {step} and {dilation}",
    )
    require((pitch - step // dilation * tap_pitch) & ADDRESS_MASK == 0, "the pitches of a DW pass must match its steps")


def _overlap(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _any_overlap(ones: Sequence[Span], others: Sequence[Span]) -> bool:
    return any(_overlap(one, other) for one in ones for other in others)
