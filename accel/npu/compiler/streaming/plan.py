"""List the plans for a layer that exceeds the memories of the chip: rows per tile, input buffer, order of weights.

The activation memory has two parts. A buffer of input rows, with all channels of a row, slides from the top of the input to the
bottom. Slots, one per job, hold a residual before the job and its result after it. Either weights stay on the chip for all
tiles, or an input tile stays while all weights are loaded. If only a group of the weights fits, the input is loaded once per
group. Plans are sorted by an estimate of the cycles; slab.py creates the jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accel.npu.compiler.tile import Block, WeightRows, is_whole_plane
from accel.npu.lowering.layers import ConvolutionLayer, Layer, PoolingLayer, Window
from accel.npu.profile import NpuProfile

SLOTS = 4
"""Number of jobs whose results may be in transfer at a time."""
LOADW_CYCLES = 22
"""Minimum cycles of a pass, because its weight rows are loaded in parallel."""


@dataclass(frozen=True, slots=True)
class RowTile:
    """A tile of output rows `first` to `last`, which needs the input rows `low` to `high`; ends are not included."""

    first: int
    last: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Slab:
    """Input blocks that are in the buffer together, and the output blocks that depend on them."""

    first_input: int
    inputs: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive input blocks, numbered within the slab."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Order and memory use of one slab. Sizes are vectors."""

    tiles: tuple[RowTile, ...]
    buffer_rows: int
    slot_vectors: int
    slots: int
    groups: tuple[tuple[Block, ...], ...] = ()
    """Output blocks whose weights stay in the weight memory together, or whose sums are in the accumulators together."""
    weights_stay: bool = True
    """False: all weights are loaded again for every tile."""
    parts: tuple[Part, ...] = ()
    """Parts of the input that are loaded in turn and whose products accumulate; empty if all input blocks fit the buffer."""
    part_slots: int = 1
    """Number of parts that fit the buffer."""
    cycles: int = 0
    """An estimate."""
    least_cycles: int = 0
    """A lower bound."""


def is_reduction(layer: Layer) -> bool:
    """Return true if a layer reduces each plane to one value; its jobs process many planes at a time."""
    return isinstance(layer, PoolingLayer) and is_whole_plane(layer)


def cut_rows(layer: Layer, rows: int) -> tuple[RowTile, ...]:
    """Return tiles of `rows` output rows; the last one may be smaller."""
    return tuple(
        RowTile(first, min(first + rows, layer.result.height), *_input_rows(layer, first, min(first + rows, layer.result.height)))
        for first in range(0, layer.result.height, rows)
    )


def _input_rows(layer: Layer, first: int, last: int) -> tuple[int, int]:
    window: Window = layer.window
    low = first * window.row_step - window.top
    high = (last - 1) * window.row_step - window.top + (window.rows - 1) * window.row_dilation + 1
    low = min(max(low, 0), layer.source.height - 1)
    return low, max(min(high, layer.source.height), low + 1)


def buffer_loads(
    tiles: Sequence[RowTile], buffer_rows: int, resident: RowTile | None = None
) -> Iterator[tuple[RowTile, int, int, int]]:
    """Yield each tile with the input row at the top of the buffer, and the input rows (low, high) to load for it.

    `resident` gives the rows (low, high) in the buffer, with `low` at its top. A tile that exceeds the end of the buffer begins
    at the top again; rows that it shares with the previous tile are then loaded again.
    """
    top, loaded = (resident.low, resident.high) if resident else (0, -1)
    for tile in tiles:
        if tile.low < top or tile.high - top > buffer_rows or loaded < 0:
            top = loaded = tile.low
        low, high = max(loaded, tile.low), max(loaded, tile.high)
        loaded = high
        yield tile, top, low, high


def plans(layer: Layer, slab: Slab, profile: NpuProfile) -> list[LayerPlan]:
    """Return all plans for a slab, by estimated cycles; empty if the input rows of one output row do not fit."""
    candidates = [*_sliding(layer, slab, profile)]
    if isinstance(layer, ConvolutionLayer) and not layer.depthwise:
        candidates += _summing(layer, slab, profile)
    return sorted(candidates, key=lambda plan: (plan.cycles, -plan.slot_vectors))


def _sliding(layer: Layer, slab: Slab, profile: NpuProfile) -> Iterator[LayerPlan]:
    """Yield plans whose buffer holds rows of all input blocks."""
    width, depth = layer.result.width, profile.accumulator_depth
    parts = -(-max(block.count for block in slab.blocks) // profile.columns)
    for rows in range(1, max(1, min(layer.result.height, depth // width)) + 1):
        tiles = cut_rows(layer, rows)
        slot = slab.inputs if is_reduction(layer) else min(rows * width, depth) * parts
        row_vectors = slab.inputs * layer.source.width
        needed = max(tile.high - tile.low for tile in tiles)
        for slots in (SLOTS, 2):
            buffer_rows = min((profile.activation_vectors - slots * slot) // row_vectors, layer.source.height)
            if buffer_rows >= needed:
                yield from _orders(layer, slab, profile, LayerPlan(tiles, buffer_rows, slot, slots))
                break


def _orders(layer: Layer, slab: Slab, profile: NpuProfile, shape: LayerPlan) -> Iterator[LayerPlan]:
    """Yield the orders of weights for one buffer layout: weights that stay, in one group or several, or are loaded per tile."""
    sizes, capacity = [block_rows(block) for block in slab.blocks], profile.weight_rows
    if sum(sizes) <= capacity:
        yield _costed(layer, slab, profile, replace(shape, groups=(slab.blocks,)))
        return
    for limit in (capacity // 2, capacity):
        if max(sizes) <= limit:
            groups = tuple(_grouped(slab.blocks, limit // max(sizes)))
            yield _costed(layer, slab, profile, replace(shape, groups=groups))
    yield _costed(layer, slab, profile, replace(shape, groups=(slab.blocks,), weights_stay=False))


def _summing(layer: Layer, slab: Slab, profile: NpuProfile) -> Iterator[LayerPlan]:
    """Yield plans that load the input in parts: both banks hold the sums of a group, and weights are loaded once per tile."""
    width, depth = layer.result.width, profile.accumulator_depth
    parts = -(-max(block.count for block in slab.blocks) // profile.columns)
    for cuts in range(1, 5):
        rows = -(-layer.result.height // cuts)
        if rows * width > depth:
            continue
        tiles = cut_rows(layer, rows)
        groups = tuple(_grouped(slab.blocks, 2 * (depth // (rows * width))))
        row_vectors = max(tile.high - tile.low for tile in tiles) * layer.source.width
        slot, slots = rows * width * parts, max(map(len, groups))
        buffer_vectors = profile.activation_vectors - slot * slots
        inputs = buffer_vectors // (2 * row_vectors)
        if 1 <= inputs < slab.inputs:
            cut = tuple(_parts(slab.inputs, inputs))
            part_slots = buffer_vectors // (cut[0].count * row_vectors)
            plan = LayerPlan(tiles, row_vectors // layer.source.width, slot, slots, groups, False, cut, part_slots)
            yield _costed(layer, slab, profile, plan)


def _parts(inputs: int, limit: int) -> Iterator[Part]:
    size = -(-inputs // -(-inputs // limit))
    for first in range(0, inputs, size):
        yield Part(first, min(size, inputs - first))


def part_order(plan: LayerPlan) -> Iterator[tuple[RowTile, int, Part, int, bool]]:
    """Yield tile, group, part, the slot of the part in the buffer, and true if the part must be loaded.

    Every other group uses the parts in reverse order, so that parts still in the buffer come first. All tiles use the same order,
    because the weights are stored in it.
    """
    slots: list[tuple[RowTile, Part] | None] = [None] * plan.part_slots
    by_age = list(range(plan.part_slots))  # least recently used first
    for tile in plan.tiles:
        for group in range(len(plan.groups)):
            for part in reversed(plan.parts) if group % 2 else plan.parts:
                is_new = (tile, part) not in slots
                slot = by_age[0] if is_new else slots.index((tile, part))
                slots[slot] = (tile, part)
                by_age.remove(slot)
                by_age.append(slot)
                yield tile, group, part, slot, is_new


def loads_of(blocks: Sequence[Block]) -> list[WeightRows]:
    """Return the weight rows of all passes of these blocks."""
    return [tap.load for block in blocks for tap in block.taps if tap.load is not None]


def chunks_of(loads: Sequence[WeightRows], limit: int) -> Iterator[tuple[int, int]]:
    """Combine contiguous loads into transfers of up to `limit` rows; yield first row and number of rows."""
    first = rows = 0
    for load in loads:
        if rows and rows + load.rows > limit:
            yield first, rows
            rows = 0
        first = load.address if not rows else first
        rows += load.rows
    if rows:
        yield first, rows


def block_rows(block: Block) -> int:
    """Return the number of weight rows of a block of output channels."""
    return sum(load.rows for load in loads_of([block]))


def _grouped(blocks: Sequence[Block], limit: int) -> Iterator[tuple[Block, ...]]:
    """Yield groups of at most `limit` blocks, of nearly equal size."""
    count = -(-len(blocks) // limit)
    for number in range(count):
        yield tuple(blocks[number * len(blocks) // count : (number + 1) * len(blocks) // count])


def _costed(layer: Layer, slab: Slab, profile: NpuProfile, plan: LayerPlan) -> LayerPlan:
    """Return the plan with estimated cycles: two bytes per cycle, parallel to the array if the next tile fits the buffer."""
    loaded, loads = _loaded_vectors(layer, slab, plan)
    weights = sum(map(block_rows, slab.blocks)) * profile.columns * (1 if plan.weights_stay else len(plan.tiles))
    outputs = layer.result.height * layer.result.width * sum(block.count for block in slab.blocks)
    moved = loaded * profile.columns + weights + outputs * (2 if layer.stage.addend else 1)
    transfers = moved // 2 + 40 * (loads + len(plan.tiles) * len(slab.blocks))
    passes = Counter(tap.kernel.kernel_rows * tap.kernel.kernel_columns for block in slab.blocks for tap in block.taps)
    positions = [(tile.last - tile.first) * layer.result.width for tile in plan.tiles]
    work = sum(max(count * kernel, LOADW_CYCLES) * number for count in positions for kernel, number in passes.items())
    biggest = max(tile.high - tile.low for tile in plan.tiles)
    is_hidden = bool(plan.parts) or plan.buffer_rows >= min(2 * biggest, layer.source.height)
    cycles = max(transfers, work) if is_hidden else transfers + work
    return replace(plan, cycles=cycles, least_cycles=max(moved // 2, work))


def _loaded_vectors(layer: Layer, slab: Slab, plan: LayerPlan) -> tuple[int, int]:
    """Return the number of input vectors that are loaded, and the number of loads."""
    width = layer.source.width
    if plan.parts:
        new = [(tile.high - tile.low) * part.count * width for tile, _, part, _, is_new in part_order(plan) if is_new]
        return sum(new), len(new)
    rows, resident = [], None
    for _ in plan.groups:
        for _tile, top, low, high in buffer_loads(plan.tiles, plan.buffer_rows, resident):
            rows.append(high - low)
            resident = RowTile(0, 0, top, high)
    return sum(rows) * slab.inputs * width, sum(count > 0 for count in rows)
