"""The cost of a program per layer, and its listing: the output of `edgewright npu estimate` and `disasm`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accel.npu import isa
from accel.npu.model.crossing import SegmentCost, segment_cost
from accel.npu.model.timing import Counters, Timing, time_program
from accel.npu.model.trace import executed, extra_executions, follow
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram, SegmentRecord

SIMULATED_ROWS = 32
"""The largest array for which the cycle model was compared with the RTL (tests/npu/hardware/test_npu_rtl.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer's share of the run. `mac_use` is the model's multiplications as a share of the array's capacity."""

    name: str
    operator: str
    instructions: int
    cycles: int
    macs: int
    mac_use: float
    moved_bytes: int
    """Bytes between the chip and its external memory, including instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The cost of a whole program on one machine, computed by the cycle model."""

    profile: str
    clock_mhz: float
    counters: Counters
    layers: tuple[LayerCost, ...]
    mac_use: float
    array_use: float
    """The share of cycles in which the array accepted a vector."""
    compute_ms: float
    input_bytes: int
    output_bytes: int
    program_bytes: int
    moved_bytes: int
    basis: str
    """The evidence for the cycle count: compared with the RTL, or extrapolated."""
    segments: tuple[SegmentCost, ...]
    """The parts of the network on the NPU; the program runs once for each."""
    link_baud: int
    crossing_ms: float
    """The time of all transfers of one sample between host and NPU, at `link_baud`."""
    latency_ms: float
    """All runs of the program and all transfers; without the host's own operators."""


def estimate(program: NpuProgram, profile: NpuProfile) -> Estimate:
    """Return the cost of `program`, which must be for `profile`."""
    program.check_profile(profile)
    instructions = executed(program, profile)
    timing = time_program(instructions, profile)
    layers = tuple(_layers(program, profile, timing, [_moved_bytes(instruction) for instruction in instructions]))
    cycles, description = timing.counters.cycles, program.description
    segments = tuple(_segment_cost(program, segment, profile) for segment in description.runs)
    compute_ms, crossing_ms = cycles / profile.clock_mhz / 1e3, sum(segment.crossing_ms for segment in segments)
    return Estimate(
        profile=profile.name,
        clock_mhz=profile.clock_mhz,
        counters=timing.counters,
        layers=layers,
        mac_use=sum(layer.macs for layer in layers) / (cycles * profile.macs_per_cycle),
        array_use=timing.counters.visits / cycles,
        compute_ms=compute_ms,
        input_bytes=sum(segment.input_bytes for segment in segments),
        output_bytes=sum(segment.output_bytes for segment in segments),
        program_bytes=sum(part.nbytes for part in (program.instructions, program.weights, program.parameters, program.external)),
        moved_bytes=sum(map(_moved_bytes, instructions)),
        basis=_basis(profile),
        segments=segments,
        link_baud=profile.link_baud,
        crossing_ms=crossing_ms,
        latency_ms=len(segments) * compute_ms + crossing_ms,
    )


def _segment_cost(program: NpuProgram, segment: SegmentRecord, profile: NpuProfile) -> SegmentCost:
    description, columns = program.description, profile.columns
    input_vectors = sum(place.vectors(columns) for place in description.inputs if place.name in segment.inputs)
    output_vectors = sum(place.vectors(columns) for place in description.outputs if place.name in segment.outputs)
    return segment_cost(profile, segment.macs, input_vectors * columns, output_vectors * columns)


def _basis(profile: NpuProfile) -> str:
    """Return the basis of an estimate: arrays of more than `SIMULATED_ROWS` rows are extrapolated."""
    if profile.rows > SIMULATED_ROWS:
        return f"extrapolated: the cycle model equals the RTL's counters up to {SIMULATED_ROWS} rows; nothing is built"
    return "cycle model, equal to the RTL's counters; clock from the profile"


def listing(program: NpuProgram, profile: NpuProfile) -> Iterator[str]:
    """Yield the instructions as text, including fetched pages, each layer with a heading."""
    starts = {layer.first: layer for layer in program.description.layers}
    executed_count = 0
    for count, (_, instruction) in enumerate(follow(program, profile)):
        if executed_count in starts:
            layer = starts[executed_count]
            yield f"; {layer.name} ({layer.operator})"
        yield f"{count:5d}  {instruction}"
        executed_count += 1 + extra_executions(instruction)


def _moved_bytes(instruction: isa.Instruction) -> int:
    return 4 * instruction.words * instruction.runs if isinstance(instruction, isa.Dma) else 0


def _layers(program: NpuProgram, profile: NpuProfile, timing: Timing, moved: Sequence[int]) -> Iterator[LayerCost]:
    """Yield the cost of each layer: it ends where the next layer begins, so the cycles add up to the whole run."""
    records = program.description.layers
    ends = [*(timing.issued[record.first] for record in records[1:]), timing.counters.cycles]
    begin = 0
    for record, end in zip(records, ends, strict=True):
        cycles = end - begin
        yield LayerCost(
            name=record.name,
            operator=record.operator,
            instructions=record.last - record.first,
            cycles=cycles,
            macs=record.macs,
            mac_use=record.macs / (cycles * profile.macs_per_cycle) if cycles else 0.0,
            moved_bytes=sum(moved[record.first : record.last]),
        )
        begin = end
