"""One layer through the external memory: which plan its slabs follow, and where its weights lie.

plan.py's estimate leaves out what only the order of transfers decides, so the plans that seem best are tried: jobs and
transfers are made for a memory that holds nothing else, and the exact cycle model tells which is fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accel.npu.compiler.place import DoesNotFitError
from accel.npu.compiler.streaming.plan import LayerPlan, Slab, is_reduction, part_order, plans
from accel.npu.compiler.streaming.slab import Outside, SlabWork
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.compiler.streaming.trial import cycles_alone, trial_streamer
from accel.npu.compiler.tile import Block, Memory, Tiler
from accel.npu.lowering.layers import ConvolutionLayer, Layer, PoolingLayer
from accel.npu.profile import NpuProfile

TRIALS = 6
"""How many plans are tried at most."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plan, for the layer as it is read: where rows or columns of the input are never read, without them."""

    layer: Layer
    slab: Slab
    plan: LayerPlan


Chosen = dict[tuple[object, ...], tuple[int, int]]
"""Which of its candidates a slab takes, and their cycles, by everything that decides it: layers of one shape are tried once."""


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """A layer with its constants, its blocks of output channels, and the plans of its slabs."""

    layer: Layer
    memory: Memory
    blocks: tuple[Block, ...]
    slabs: tuple[_Candidate, ...]
    cycles: int
    """What it takes when nothing else is under way."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The one layer."""
        return (self.layer,)

    def stream(self, streamer: Streamer) -> None:
        """Append the work and the transfers."""
        slabs, weights = self.slabs, self.memory.weights()
        if len(slabs) == 1 and slabs[0].plan.parts:
            plan, order = _as_used(slabs[0].plan)
            slabs, weights = (replace(slabs[0], plan=plan),), weights[order]
        weights_at = streamer.constants.add(weights)
        parameters_at = streamer.constants.add_parameters(self.memory.parameters())
        for slab in slabs:
            outside = _outside(self.layer, slab.layer, weights_at, parameters_at)
            SlabWork(streamer, slab.layer, slab.slab, slab.plan, outside).run()


def choose_plans(layer: Layer, profile: NpuProfile, chosen: Chosen) -> LayerChoice:
    """Return how a layer goes through the chip by itself; raise `DoesNotFitError` when not even one row of it fits."""
    memory = Memory(profile)
    memory.add_parameters(layer.stage)
    readings = [*_readings(layer)]
    blocks = tuple(Tiler(profile, {}, memory, 1).blocks(readings[0]))
    found = [_choose(layer, readings, slab, profile, chosen) for slab in _slabs(layer, blocks, profile)]
    return LayerChoice(layer, memory, blocks, tuple(slab for slab, _ in found), sum(cycles for _, cycles in found))


def _outside(layer: Layer, read: Layer, weights_at: int, parameters_at: int) -> Outside:
    steps = (layer.window.row_step // read.window.row_step, layer.window.column_step // read.window.column_step)
    return Outside(weights_at, parameters_at, layer.source.height, layer.source.width, *steps)


def _readings(layer: Layer) -> Iterator[Layer]:
    """A kernel of one row (or of one vector) that steps over rows (and columns) never reads them: it may see only the others."""
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
    """A dense layer needs all input channels at once; others go block by block, and whole planes some blocks at a time."""
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


def _choose(layer: Layer, readings: Sequence[Layer], slab: Slab, profile: NpuProfile, chosen: Chosen) -> tuple[_Candidate, int]:
    """Return the fastest of the candidates that seem best."""
    candidates = [_Candidate(read, slab, plan) for read in readings for plan in plans(read, slab, profile)]
    candidates.sort(key=lambda candidate: candidate.plan.cycles)
    if not candidates:
        raise DoesNotFitError(
            f"layer {layer.name}: the input rows of one output row must fit the {profile.activation_vectors} vectors of "
            f"{profile.columns} bytes on {profile.name}, but they do not; use a smaller input or a larger NPU"
        )
    key = (*layer_key(layer), slab.inputs, len(slab.blocks))
    if key not in chosen:
        chosen[key] = _fastest(layer, candidates, profile)
    number, cycles = chosen[key]
    return candidates[number], cycles


def layer_key(layer: Layer) -> tuple[object, ...]:
    """Return everything about a layer that decides how long it takes."""
    source, result = layer.source, layer.result
    sizes = (source.channels, source.height, source.width, result.channels, result.height, result.width)
    kind = (isinstance(layer, PoolingLayer), isinstance(layer, ConvolutionLayer) and layer.depthwise)
    return (*sizes, *kind, layer.window, layer.stage.addend is not None)


def _fastest(layer: Layer, candidates: Sequence[_Candidate], profile: NpuProfile) -> tuple[int, int]:
    best, fastest = 0, 0
    for number, candidate in enumerate(candidates[:TRIALS]):
        if fastest and candidate.plan.least_cycles >= fastest:
            continue
        streamer = trial_streamer([layer], profile)
        SlabWork(streamer, candidate.layer, candidate.slab, candidate.plan, _outside(layer, candidate.layer, 0, 0)).run()
        cycles = cycles_alone(streamer)
        if not fastest or cycles < fastest:
            best, fastest = number, cycles
    return best, fastest


def _as_used(plan: LayerPlan) -> tuple[LayerPlan, list[int]]:
    """Let the weights lie in the order of their use: return the plan with the rows' new addresses, and the old ones in order."""
    order: list[int] = []
    groups = [[replace(block, taps=()) for block in group] for group in plan.groups]
    turns = [(group, part) for tile, group, part, _, _ in part_order(plan) if tile == plan.tiles[0]]
    for group, part in turns:
        for number, block in enumerate(plan.groups[group]):
            for tap in block.taps:
                if tap.load is not None and part.first <= tap.block < part.first + part.count:
                    load = replace(tap.load, address=len(order))
                    order += range(tap.load.address, tap.load.address + tap.load.rows)
                    moved = groups[group][number]
                    groups[group][number] = replace(moved, taps=(*moved.taps, replace(tap, load=load)))
    return replace(plan, groups=tuple(map(tuple, groups))), order
