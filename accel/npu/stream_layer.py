"""One layer through the external memory: which plan its slabs follow, and where its weights lie.

stream_plan.py's estimate leaves out what only the order of transfers decides, so the plans that seem best are tried: jobs and
transfers are made for a memory that holds nothing else, and the exact cycle model tells which is fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from accel.npu.arithmetic import Int8
from accel.npu.layers import ConvolutionLayer, Layer, PoolingLayer
from accel.npu.place import DoesNotFitError
from accel.npu.profile import NpuProfile
from accel.npu.stream import Streamer
from accel.npu.stream_order import first_needs, in_order
from accel.npu.stream_plan import LayerPlan, Slab, is_reduction, part_order, plans
from accel.npu.stream_slab import Outside, SlabWork
from accel.npu.tile import Block, Memory, Tiler
from accel.npu.timing import time_program
from accel.npu.trace import repeated

TRIALS = 6
"""How many plans are tried at most."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plan, for the layer as it is read: where rows or columns of the input are never read, without them."""

    layer: Layer
    slab: Slab
    plan: LayerPlan


Chosen = dict[tuple[object, ...], int]
"""Which of its candidates a slab takes, by everything that decides it: layers of one shape are tried once."""


def stream_layer(layer: Layer, streamer: Streamer, chosen: Chosen) -> None:
    """Append the work and the transfers of one layer; raise `DoesNotFitError` when not even one row of it fits."""
    profile, memory = streamer.profile, Memory(streamer.profile)
    memory.add_parameters(layer.stage)
    readings = [*_readings(layer)]
    blocks = tuple(Tiler(profile, {}, memory, 1).blocks(readings[0]))
    slabs = [_choose(layer, readings, slab, profile, chosen) for slab in _slabs(layer, blocks, profile)]
    weights = memory.weights()
    if len(slabs) == 1 and slabs[0].plan.parts:
        plan, order = _as_used(slabs[0].plan)
        slabs, weights = [replace(slabs[0], plan=plan)], weights[order]
    weights_at = streamer.constants.add(weights)
    parameters_at = streamer.constants.add(np.pad(memory.parameters(), ((0, 0), (0, 0), (0, 1))))
    for slab in slabs:
        outside = _outside(layer, slab.layer, weights_at, parameters_at)
        SlabWork(streamer, slab.layer, slab.slab, slab.plan, outside).run()


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


def _choose(layer: Layer, readings: Sequence[Layer], slab: Slab, profile: NpuProfile, chosen: Chosen) -> _Candidate:
    """Return the fastest of the candidates that seem best."""
    candidates = [_Candidate(read, slab, plan) for read in readings for plan in plans(read, slab, profile)]
    candidates.sort(key=lambda candidate: candidate.plan.cycles)
    if not candidates:
        raise DoesNotFitError(
            f"layer {layer.name}: the input rows of one output row must fit the {profile.activation_vectors} vectors of "
            f"{profile.columns} bytes on {profile.name}, but they do not; use a smaller input or a larger NPU"
        )
    key = _key(layer, slab)
    if key not in chosen:
        chosen[key] = _fastest(layer, candidates, profile)
    return candidates[chosen[key]]


def _key(layer: Layer, slab: Slab) -> tuple[object, ...]:
    source, result = layer.source, layer.result
    sizes = (source.channels, source.height, source.width, result.channels, result.height, result.width)
    kind = (isinstance(layer, PoolingLayer), isinstance(layer, ConvolutionLayer) and layer.depthwise)
    return (*sizes, *kind, layer.window, layer.stage.addend is not None, slab.inputs, len(slab.blocks))


def _fastest(layer: Layer, candidates: Sequence[_Candidate], profile: NpuProfile) -> int:
    best, fastest = 0, 0
    for number, candidate in enumerate(candidates[:TRIALS] if len(candidates) > 1 else []):
        if fastest and candidate.plan.least_cycles >= fastest:
            continue
        cycles = _tried(layer, candidate, profile)
        if not fastest or cycles < fastest:
            best, fastest = number, cycles
    return best


def _tried(layer: Layer, candidate: _Candidate, profile: NpuProfile) -> int:
    """Return the cycles of a slab that is alone in the machine."""
    addend = layer.stage.addend
    tensors = [layer.source, layer.result, *([addend.tensor] if addend else [])]
    places, end = {}, 0
    for tensor in tensors:
        places[tensor.name] = end
        end += -(-tensor.channels // profile.columns) * tensor.height * tensor.width
    streamer = Streamer(profile, places, 0, end)
    SlabWork(streamer, candidate.layer, candidate.slab, candidate.plan, _outside(layer, candidate.layer, 0, 0)).run()
    streamer.jobs.finish()
    first_needs(streamer.jobs.steps)
    instructions, _, _ = in_order(streamer.jobs.steps, streamer.transfers, profile, pages_at=0)
    return time_program((instruction for _, instruction in repeated(enumerate(instructions))), profile).counters.cycles


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
