"""How to bring one layer through memories that are smaller than it: rows per tile, the input's buffer, the order of weights.

The activation memory is cut in two: a buffer of input rows, all channels of a row, through which the input slides from top to
bottom; and slots, one per job, which hold a residual before the job and its result behind it. Weights either stay while all
tiles pass by (all of them, or one group of output channels after the other, for which the input comes again each time), or the
input tile stays while all weights pass by. What moves the fewest bytes, or hides them best, wins; nothing here makes
instructions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accel.npu.compiler.tile import Block, WeightRows, is_whole_plane
from accel.npu.lowering.layers import ConvolutionLayer, Layer, PoolingLayer, Window
from accel.npu.profile import NpuProfile

SLOTS = 4
"""Jobs whose results may be on their way at a time."""
LOADW_CYCLES = 22
"""What a pass takes at least: its weight rows are loaded meanwhile."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A tile: output rows `first` to `last`, and the input rows `low` to `high` that they need; ends are not included."""

    first: int
    last: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Slab:
    """Input blocks that are in the buffer together, and the output blocks that are made from them."""

    first_input: int
    inputs: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Input blocks, counted in the slab."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """How one slab is processed. Memory addresses are vectors."""

    tiles: tuple[Rows, ...]
    buffer_rows: int
    slot_vectors: int
    slots: int
    groups: tuple[tuple[Block, ...], ...] = ()
    """Output blocks whose weights stay in the weight memory together, or whose sums are in the accumulators together."""
    weights_stay: bool = True
    """False: all weights pass by for every tile."""
    parts: tuple[Part, ...] = ()
    """Input blocks that come one after another and add up; none: all are in the buffer at a time."""
    rooms: int = 1
    """How many parts the buffer holds."""
    cycles: int = 0
    """An estimate."""
    least_cycles: int = 0
    """It cannot take less."""


def is_reduction(layer: Layer) -> bool:
    """Tell whether a layer makes one value of each plane; such layers take many planes at a time."""
    return isinstance(layer, PoolingLayer) and is_whole_plane(layer)


def cut_rows(layer: Layer, rows: int) -> tuple[Rows, ...]:
    """Cut the output plane into tiles of so many rows."""
    return tuple(
        Rows(first, min(first + rows, layer.result.height), *_input_rows(layer, first, min(first + rows, layer.result.height)))
        for first in range(0, layer.result.height, rows)
    )


def _input_rows(layer: Layer, first: int, last: int) -> tuple[int, int]:
    window: Window = layer.window
    low = first * window.row_step - window.top
    high = (last - 1) * window.row_step - window.top + (window.rows - 1) * window.row_dilation + 1
    low = min(max(low, 0), layer.source.height - 1)
    return low, max(min(high, layer.source.height), low + 1)


def buffer_loads(tiles: Sequence[Rows], buffer_rows: int, resident: Rows | None = None) -> Iterator[tuple[Rows, int, int, int]]:
    """Let tiles slide through the buffer: yield each with the input row at the buffer's top, and the rows (low, high) to load.

    `resident` says which rows (low, high) the buffer holds already, `low` at its top. When a tile would reach over the end of
    the buffer it begins at the top again, and rows that it shares with the tile before are loaded once more.
    """
    top, loaded = (resident.low, resident.high) if resident else (0, -1)
    for tile in tiles:
        if tile.low < top or tile.high - top > buffer_rows or loaded < 0:
            top = loaded = tile.low
        low, high = max(loaded, tile.low), max(loaded, tile.high)
        loaded = high
        yield tile, top, low, high


def plans(layer: Layer, slab: Slab, profile: NpuProfile) -> list[LayerPlan]:
    """Return all plans for a slab, the one that seems cheapest first; none when not even one output row fits."""
    found = [*_sliding(layer, slab, profile)]
    if isinstance(layer, ConvolutionLayer) and not layer.depthwise:
        found += _summing(layer, slab, profile)
    return sorted(found, key=lambda plan: (plan.cycles, -plan.slot_vectors))


def _sliding(layer: Layer, slab: Slab, profile: NpuProfile) -> Iterator[LayerPlan]:
    """Rows of all input blocks slide through the buffer."""
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
    """Weights that stay, in one group or several; or weights that pass by for every tile."""
    sizes, room = [block_rows(block) for block in slab.blocks], profile.weight_rows
    if sum(sizes) <= room:
        yield _costed(layer, slab, profile, replace(shape, groups=(slab.blocks,)))
        return
    for limit in (room // 2, room):
        if max(sizes) <= limit:
            groups = tuple(_grouped(slab.blocks, limit // max(sizes)))
            yield _costed(layer, slab, profile, replace(shape, groups=groups))
    yield _costed(layer, slab, profile, replace(shape, groups=(slab.blocks,), weights_stay=False))


def _summing(layer: Layer, slab: Slab, profile: NpuProfile) -> Iterator[LayerPlan]:
    """Both banks hold the sums of a group of output blocks; parts of the input come in turn, and weights once per tile."""
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
        room = profile.activation_vectors - slot * slots
        inputs = room // (2 * row_vectors)
        if 1 <= inputs < slab.inputs:
            cut = tuple(_parts(slab.inputs, inputs))
            rooms = room // (cut[0].count * row_vectors)
            plan = LayerPlan(tiles, row_vectors // layer.source.width, slot, slots, groups, False, cut, rooms)
            yield _costed(layer, slab, profile, plan)


def _parts(inputs: int, limit: int) -> Iterator[Part]:
    size = -(-inputs // -(-inputs // limit))
    for first in range(0, inputs, size):
        yield Part(first, min(size, inputs - first))


def part_order(plan: LayerPlan) -> Iterator[tuple[Rows, int, Part, int, bool]]:
    """Yield tile, group, part, the room of the part in the buffer, and whether it must be loaded into it.

    Every other group takes the parts backwards, so that those which are still there come first; but each tile goes the same way,
    for the weights lie in that order.
    """
    rooms: list[tuple[Rows, Part] | None] = [None] * plan.rooms
    used = list(range(plan.rooms))
    """The room that was used longest ago comes first."""
    for tile in plan.tiles:
        for group in range(len(plan.groups)):
            for part in reversed(plan.parts) if group % 2 else plan.parts:
                is_new = (tile, part) not in rooms
                room = used[0] if is_new else rooms.index((tile, part))
                rooms[room] = (tile, part)
                used.remove(room)
                used.append(room)
                yield tile, group, part, room, is_new


def loads_of(blocks: Sequence[Block]) -> list[WeightRows]:
    """Return the loads of all passes of these blocks."""
    return [tap.load for block in blocks for tap in block.taps if tap.load is not None]


def chunks_of(loads: Sequence[WeightRows], limit: int) -> Iterator[tuple[int, int]]:
    """Cut loads, which follow one another in the layer's weights, into transfers: first row and rows."""
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
    """Return how many weight rows a block of output channels has."""
    return sum(load.rows for load in loads_of([block]))


def _grouped(blocks: Sequence[Block], limit: int) -> Iterator[tuple[Block, ...]]:
    """Cut blocks into groups of nearly the same size."""
    count = -(-len(blocks) // limit)
    for number in range(count):
        yield tuple(blocks[number * len(blocks) // count : (number + 1) * len(blocks) // count])


def _costed(layer: Layer, slab: Slab, profile: NpuProfile, plan: LayerPlan) -> LayerPlan:
    """Estimate the cycles: transfers move two bytes each; the array works meanwhile if there is room for the next tile."""
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
    """Return how many input vectors come in, and in how many loads."""
    width = layer.source.width
    if plan.parts:
        new = [(tile.high - tile.low) * part.count * width for tile, _, part, _, is_new in part_order(plan) if is_new]
        return sum(new), len(new)
    rows, resident = [], None
    for _ in plan.groups:
        for _tile, top, low, high in buffer_loads(plan.tiles, plan.buffer_rows, resident):
            rows.append(high - low)
            resident = Rows(0, 0, top, high)
    return sum(rows) * slab.inputs * width, sum(count > 0 for count in rows)
