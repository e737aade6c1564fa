"""How to bring one layer through memories that are smaller than it: rows per tile, the input's buffer, the order of weights.

The activation memory is cut in two: a buffer of input rows, all channels of a row, through which the input slides from top to
bottom; and slots, one per job, which hold a residual before the job and its result behind it. Weights either stay while all
tiles pass by (all of them, or one group of output channels after the other, for which the input comes again each time), or the
input tile stays while all weights pass by. What moves the fewest bytes, or hides them best, wins; nothing here makes
instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accel.npu.compiler.tile import Block, is_whole_plane
from accel.npu.lowering.layers import Layer, PoolingLayer, Window
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
class LayerPlan:
    """How one slab is processed. Memory addresses are vectors."""

    tiles: tuple[Rows, ...]
    buffer_rows: int
    slot_vectors: int
    slots: int
    groups: tuple[tuple[Block, ...], ...]
    """Output blocks whose weights stay in the weight memory together."""
    weights_stay: bool
    """False: the one group's weights pass by for every tile."""
    cycles: int


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


def plan_slab(layer: Layer, slab: Slab, profile: NpuProfile) -> LayerPlan | None:
    """Return the cheapest plan for a slab, or None when not even one output row fits."""
    return min(_plans(layer, slab, profile), key=lambda plan: (plan.cycles, -plan.slot_vectors), default=None)


def _plans(layer: Layer, slab: Slab, profile: NpuProfile) -> Iterator[LayerPlan]:
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
                yield from _orders(layer, slab, profile, tiles, LayerPlan(tiles, buffer_rows, slot, slots, (), True, 0))
                break


def _orders(layer: Layer, slab: Slab, profile: NpuProfile, tiles: Sequence[Rows], shape: LayerPlan) -> Iterator[LayerPlan]:
    """Weights that stay, in one group or several; or weights that pass by for every tile."""
    sizes = [block_rows(block) for block in slab.blocks]
    if sum(sizes) <= profile.weight_rows:
        yield _costed(layer, slab, profile, shape, (slab.blocks,), weights_stay=True)
        return
    if max(sizes) <= profile.weight_rows // 2:
        yield _costed(layer, slab, profile, shape, tuple(_grouped(slab.blocks, profile.weight_rows // 2)), weights_stay=True)
    yield _costed(layer, slab, profile, shape, (slab.blocks,), weights_stay=False)


def block_rows(block: Block) -> int:
    """Return how many weight rows a block of output channels has."""
    return sum(tap.load.rows for tap in block.taps if tap.load is not None)


def _grouped(blocks: Sequence[Block], limit: int) -> Iterator[tuple[Block, ...]]:
    group: list[Block] = []
    for block in blocks:
        if group and sum(map(block_rows, group)) + block_rows(block) > limit:
            yield tuple(group)
            group = []
        group.append(block)
    yield tuple(group)


def _costed(
    layer: Layer,
    slab: Slab,
    profile: NpuProfile,
    shape: LayerPlan,
    groups: tuple[tuple[Block, ...], ...],
    *,
    weights_stay: bool,
) -> LayerPlan:
    """Estimate the cycles: transfers move two bytes each; the array works meanwhile if there is room for the next tile."""
    row_bytes = slab.inputs * layer.source.width * profile.columns
    loaded = shape_loads = 0
    resident = None
    for _ in groups:
        for _tile, top, low, high in buffer_loads(shape.tiles, shape.buffer_rows, resident):
            loaded += high - low
            shape_loads += high > low
            resident = Rows(0, 0, top, high)
    weights = sum(map(block_rows, slab.blocks)) * profile.columns * (1 if weights_stay else len(shape.tiles))
    outputs = layer.result.height * layer.result.width * sum(block.count for block in slab.blocks)
    moved = loaded * row_bytes + weights + outputs * (2 if layer.stage.addend else 1)
    transfers = moved // 2 + 40 * (shape_loads + len(shape.tiles) * len(slab.blocks))
    work = sum(_tile_work(layer, tile, slab) for tile in shape.tiles)
    biggest = max(tile.high - tile.low for tile in shape.tiles)
    is_hidden = shape.buffer_rows >= min(2 * biggest, layer.source.height)
    cycles = max(transfers, work) if is_hidden else transfers + work
    return LayerPlan(shape.tiles, shape.buffer_rows, shape.slot_vectors, shape.slots, groups, weights_stay, cycles)


def _tile_work(layer: Layer, tile: Rows, slab: Slab) -> int:
    positions = (tile.last - tile.first) * layer.result.width
    passes = [
        max(positions * tap.kernel.kernel_rows * tap.kernel.kernel_columns, LOADW_CYCLES)
        for block in slab.blocks
        for tap in block.taps
    ]
    return sum(passes)
