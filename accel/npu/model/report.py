"""What a program costs, layer by layer, and its listing: the tables behind `edgewright npu estimate` and `disasm`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accel.npu import isa
from accel.npu.model.timing import Counters, Timing, time_program
from accel.npu.model.trace import executed, extra_turns, follow
from accel.npu.profile import NpuProfile
from accel.npu.program import NpuProgram

SIMULATED_ROWS = 32
"""The largest array that was simulated beside the cycle model (tests/npu/hardware/test_npu_rtl.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer's share of the run. `mac_use` is the share of the array's multipliers that did the model's work."""

    name: str
    operator: str
    instructions: int
    cycles: int
    macs: int
    mac_use: float
    moved_bytes: int
    """Between the chip and its external memory, instructions included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A whole program on one machine, from the cycle model; no machine was asked."""

    profile: str
    clock_mhz: float
    counters: Counters
    layers: tuple[LayerCost, ...]
    mac_use: float
    array_use: float
    """The share of cycles in which the array took a vector in."""
    compute_ms: float
    input_bytes: int
    output_bytes: int
    program_bytes: int
    moved_bytes: int
    basis: str
    """What the cycles rest on."""


def estimate(program: NpuProgram, profile: NpuProfile) -> Estimate:
    """Return the cost of `program`, which must be for `profile`."""
    program.check_profile(profile)
    instructions = executed(program, profile)
    timing = time_program(instructions, profile)
    layers = tuple(_layers(program, profile, timing, [_moved_bytes(instruction) for instruction in instructions]))
    cycles, columns = timing.counters.cycles, profile.columns
    description = program.description
    return Estimate(
        profile=profile.name,
        clock_mhz=profile.clock_mhz,
        counters=timing.counters,
        layers=layers,
        mac_use=sum(layer.macs for layer in layers) / (cycles * profile.macs_per_cycle),
        array_use=timing.counters.visits / cycles,
        compute_ms=cycles / profile.clock_mhz / 1e3,
        input_bytes=sum(place.vectors(columns) * columns for place in description.inputs),
        output_bytes=sum(place.vectors(columns) * columns for place in description.outputs),
        program_bytes=sum(part.nbytes for part in (program.instructions, program.weights, program.parameters, program.external)),
        moved_bytes=sum(map(_moved_bytes, instructions)),
        basis=_basis(profile),
    )


def _basis(profile: NpuProfile) -> str:
    """The cycle model was held against the RTL up to `SIMULATED_ROWS`; a larger array is an extrapolation, and says so."""
    if profile.rows > SIMULATED_ROWS:
        return f"extrapolated: the cycle model equals the RTL's counters up to {SIMULATED_ROWS} rows; nothing is built"
    return "cycle model, equal to the RTL's counters; clock from the profile"


def listing(program: NpuProgram, profile: NpuProfile) -> Iterator[str]:
    """Yield the instructions as text, pages that are fetched included, with the layers' names above them."""
    starts = {layer.first: layer for layer in program.description.layers}
    executed_so_far = 0
    for count, (_, instruction) in enumerate(follow(program, profile)):
        if executed_so_far in starts:
            layer = starts[executed_so_far]
            yield f"; {layer.name} ({layer.operator})"
        yield f"{count:5d}  {instruction}"
        executed_so_far += 1 + extra_turns(instruction)


def _moved_bytes(instruction: isa.Instruction) -> int:
    return 4 * instruction.words * instruction.runs if isinstance(instruction, isa.Dma) else 0


def _layers(program: NpuProgram, profile: NpuProfile, timing: Timing, moved: Sequence[int]) -> Iterator[LayerCost]:
    """A layer's cycles end where the next one's begin, so they add up to the whole run."""
    records = program.description.layers
    ends = [*(timing.issued[record.first] for record in records[1:]), timing.counters.cycles]
    begin = 0
    for record, end in zip(records, ends, strict=True):
        spent = end - begin
        yield LayerCost(
            name=record.name,
            operator=record.operator,
            instructions=record.last - record.first,
            cycles=spent,
            macs=record.macs,
            mac_use=record.macs / (spent * profile.macs_per_cycle) if spent else 0.0,
            moved_bytes=sum(moved[record.first : record.last]),
        )
        begin = end
