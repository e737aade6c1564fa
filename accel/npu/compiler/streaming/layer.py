"""Choose a plan for each slab of a layer, and the order of its weights in external memory.

The estimate of plan.py ignores the order of transfers. So the plans with the best estimates are compiled without other work in
parallel, and the exact cycle model determines the fastest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from accel.npu.compiler.place import DoesNotFitError
from accel.npu.compiler.streaming.plan import LayerPlan, Slab, is_reduction, part_order, plans
from accel.npu.compiler.streaming.slab import OffChipLayout, SlabWork
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.compiler.streaming.trial import cycles_alone, trial_streamer
from accel.npu.compiler.tile import Block, Memory, Tiler
from accel.npu.lowering.layers import ConvolutionLayer, Layer, PoolingLayer
from accel.npu.profile import NpuProfile

TRIALS = 6
"""Maximum number of plans that are compiled and timed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan for a slab of the layer as it is read: `layer` has no input rows and columns that its strides skip."""

    layer: Layer
    slab: Slab
    plan: LayerPlan


PlanSelector = Callable[[Layer, Sequence[Candidate], NpuProfile], tuple[int, int]]
"""Returns the index of a candidate, which is used, and its cycles."""


@dataclass(frozen=True, slots=True)
class PlanChooser:
    """The profile and the selector, with a cache: slabs of equal shape get the same plan and are timed once."""

    profile: NpuProfile
    select_plan: PlanSelector
    cache: dict[tuple[object, ...], tuple[int, int]] = field(default_factory=dict)
    """Index of the candidate, and its cycles."""


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """A layer with its constants, its blocks of output channels, and the plans of its slabs."""

    layer: Layer
    memory: Memory
    blocks: tuple[Block, ...]
    slabs: tuple[Candidate, ...]
    cycles: int
    """The cycles without other work in parallel."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The one layer."""
        return (self.layer,)

    def stream(self, streamer: Streamer) -> None:
        """Append the jobs and the transfers."""
        slabs, weights = self.slabs, self.memory.weights()
        if len(slabs) == 1 and slabs[0].plan.parts:
            plan, order = _in_order_of_use(slabs[0].plan)
            slabs, weights = (replace(slabs[0], plan=plan),), weights[order]
        weights_at = streamer.constants.add(weights)
        parameters_at = streamer.constants.add_parameters(self.memory.parameters())
        for slab in slabs:
            off_chip = _off_chip_layout(self.layer, slab.layer, weights_at, parameters_at)
            SlabWork(streamer, slab.layer, slab.slab, slab.plan, off_chip).run()


def choose_plans(layer: Layer, chooser: PlanChooser) -> LayerChoice:
    """Return a single layer with the plans of its slabs.

    Raises:
        DoesNotFitError: the input rows of one output row do not fit on the chip.
    """
    memory = Memory(chooser.profile)
    memory.add_parameters(layer.stage)
    readings = [*_readings(layer)]
    blocks = tuple(Tiler(chooser.profile, {}, memory).blocks(readings[0]))
    choices = [_choose(layer, readings, slab, chooser) for slab in _slabs(layer, blocks, chooser.profile)]
    return LayerChoice(layer, memory, blocks, tuple(slab for slab, _ in choices), sum(cycles for _, cycles in choices))


def _off_chip_layout(layer: Layer, read: Layer, weights_at: int, parameters_at: int) -> OffChipLayout:
    steps = (layer.window.row_step // read.window.row_step, layer.window.column_step // read.window.column_step)
    return OffChipLayout(weights_at, parameters_at, layer.source.height, layer.source.width, *steps)


def _readings(layer: Layer) -> Iterator[Layer]:
    """Yield the layer without the input rows that a strided kernel skips, and then without the columns."""
    window, source, result = layer.window, layer.source, layer.result
    skips_rows = window.rows == 1 and not window.top and (result.height - 1) * window.row_step < source.height
    thin = layer
    if skips_rows:
        thin = replace(layer, source=replace(source, height=result.height), window=replace(window, row_step=1))
    yield thin
    skips_columns = window.columns == 1 and not window.left and (result.width - 1) * window.column_step < source.width
    if skips_rows and skips_columns and window.column_step > 1:
        narrow = replace(thin.source, width=result.width)
        yield replace(thin, source=narrow, window=replace(thin.window, column_step=1))


def _slabs(layer: Layer, blocks: Sequence[Block], profile: NpuProfile) -> Iterator[Slab]:
    """Yield the slabs: a dense layer has one, others have one per block, and reductions of planes one per several blocks."""
    inputs = -(-layer.source.channels // profile.columns)
    if isinstance(layer, ConvolutionLayer) and not layer.depthwise:
        yield Slab(0, inputs, tuple(blocks))
        return
    together = -(-blocks[0].count // profile.columns)
    if is_reduction(layer):
        plane = layer.source.height * layer.source.width
        together = max(1, min(profile.activation_vectors // (2 * plane), profile.accumulator_depth // 4))
    for first in range(0, inputs, together):
        block_range = [block for block in blocks if first <= block.first // profile.columns < first + together]
        yield Slab(first, min(together, inputs - first), tuple(block_range))


def _choose(layer: Layer, readings: Sequence[Layer], slab: Slab, chooser: PlanChooser) -> tuple[Candidate, int]:
    """Return the selected candidate, and its cycles."""
    profile = chooser.profile
    candidates = [Candidate(read, slab, plan) for read in readings for plan in plans(read, slab, profile)]
    candidates.sort(key=lambda candidate: candidate.plan.cycles)
    if not candidates:
        raise DoesNotFitError(
            f"layer {layer.name}: the input rows of one output row must fit the {profile.activation_vectors} vectors of "
            f"{profile.columns} bytes on {profile.name}, but they do not; use a smaller input or a larger NPU"
        )
    key = (*layer_key(layer), slab.inputs, len(slab.blocks))
    if key not in chooser.cache:
        chooser.cache[key] = chooser.select_plan(layer, candidates, profile)
    index, cycles = chooser.cache[key]
    return candidates[index], cycles


def layer_key(layer: Layer) -> tuple[object, ...]:
    """Return the properties that determine the run time of a layer."""
    source, result = layer.source, layer.result
    sizes = (source.channels, source.height, source.width, result.channels, result.height, result.width)
    kind = (isinstance(layer, PoolingLayer), isinstance(layer, ConvolutionLayer) and layer.depthwise)
    return (*sizes, *kind, layer.window, layer.stage.addend is not None)


def fastest_plan(layer: Layer, candidates: Sequence[Candidate], profile: NpuProfile) -> tuple[int, int]:
    """Return the index of the fastest of the first `TRIALS` candidates, and its cycles; the default `PlanSelector`."""
    best, fastest = 0, 0
    for number, candidate in enumerate(candidates[:TRIALS]):
        if fastest and candidate.plan.least_cycles >= fastest:
            continue
        streamer = trial_streamer([layer], profile)
        SlabWork(streamer, candidate.layer, candidate.slab, candidate.plan, _off_chip_layout(layer, candidate.layer, 0, 0)).run()
        cycles = cycles_alone(streamer)
        if not fastest or cycles < fastest:
            best, fastest = number, cycles
    return best, fastest


def _in_order_of_use(plan: LayerPlan) -> tuple[LayerPlan, list[int]]:
    """Sort the weight rows by first use: return the plan with the new addresses, and the old addresses in the new order."""
    order: list[int] = []
    groups = [[replace(block, taps=()) for block in group] for group in plan.groups]
    uses = [(group, part) for tile, group, part, _, _ in part_order(plan) if tile == plan.tiles[0]]
    for group, part in uses:
        for number, block in enumerate(plan.groups[group]):
            for tap in block.taps:
                if tap.load is not None and part.first <= tap.block < part.first + part.count:
                    load = replace(tap.load, address=len(order))
                    order += range(tap.load.address, tap.load.address + tap.load.rows)
                    moved = groups[group][number]
                    groups[group][number] = replace(moved, taps=(*moved.taps, replace(tap, load=load)))
    return replace(plan, groups=tuple(map(tuple, groups))), order
