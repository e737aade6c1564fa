"""Tile layers to fit the buffers: tiles of output positions, passes over taps and channel blocks, weight rows, parameters.

The result is a list of jobs. A job fills one bank of accumulators and empties it: a shape, the passes with their weight rows, and
the vector pass. schedule.py orders the instructions; tiling is independent of timing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from accel.npu import isa
from accel.npu.arithmetic import Int8, Int32, Range, quantize_multiplier, residual_scale
from accel.npu.depthwise import LINE_COLUMNS, depthwise_unit
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.lowering.layers import ConvolutionLayer, Layer, OutputStage, PoolingLayer
from accel.npu.lowering.microscaling import BLOCK
from accel.npu.profile import NpuProfile

SHORTEST_TILE = 24
"""Positions for which a pass over one tap hides the load of the next weights on an array of 16 rows."""
LARGEST_KERNEL = max(field.high for field in isa.LAYOUTS[isa.Opcode.POOL] if field.name == "kernel_rows")


@dataclass(frozen=True, slots=True)
class WeightRows:
    """Weight rows that one LOADW loads; `address` counts all rows of a `Memory`, which may exceed those on the chip."""

    address: int
    rows: int

    def load(self, address: int) -> isa.LoadW:
        """Return the instruction that loads the rows from `address` of the weight memory."""
        return isa.LoadW(address=address, rows=self.rows)


@dataclass(frozen=True, slots=True)
class Work:
    """One array pass with its weight rows; accumulators are relative to the first one of the job."""

    load: WeightRows | None
    array_pass: isa.ArrayPass


@dataclass(frozen=True, slots=True)
class Job:
    """The passes that fill a bank of accumulators, and the VEC that empties it."""

    shape: isa.Shape
    works: tuple[Work, ...]
    residual: isa.Residual | None
    vector: isa.Vec


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of output positions: whole rows, or a part of one row."""

    row: int
    rows: int
    column: int
    columns: int


class Memory:
    """Growing list of the weights and parameters of a program."""

    def __init__(self, profile: NpuProfile) -> None:
        self._profile = profile
        self._weights: list[Int8] = []
        self._parameters: list[Int32] = []
        self.weight_rows = 0
        self.parameter_groups = 0

    def add_weights(self, rows: Int8, shifts: Int8 | None = None) -> WeightRows:
        """Append up to `rows` x `columns` weights, in mxint8 with the rows' shifts; return their address."""
        address, before = self.weight_rows, self._profile.shift_rows
        stored = np.zeros((before + len(rows), self._profile.columns), np.int8)
        stored[before:, : rows.shape[1]] = rows
        if shifts is not None:
            stored[:before].reshape(-1)[: len(rows)] = shifts
        self._weights.append(stored)
        self.weight_rows += len(stored)
        return WeightRows(address, len(rows))

    def add_parameters(self, stage: OutputStage) -> int:
        """Append bias, multiplier and shift of every channel; return the first group."""
        columns, lanes = self._profile.columns, self._profile.vector_lanes
        channels = len(stage.bias)
        table = np.zeros((-(-channels // columns) * columns, 3), np.int32)
        table[:, 2] = 1
        for channel in range(channels):
            table[channel] = (stage.bias[channel], *quantize_multiplier(float(stage.factors[channel])))
        self._parameters.append(table.reshape(-1, lanes, 3))
        self.parameter_groups += len(table) // lanes
        return self.parameter_groups - len(table) // lanes

    def weights(self) -> Int8:
        """Return all weight rows."""
        return np.concatenate([np.zeros((0, self._profile.columns), np.int8), *self._weights])

    def parameters(self) -> Int32:
        """Return all parameter groups."""
        return np.concatenate([np.zeros((0, self._profile.vector_lanes, 3), np.int32), *self._parameters])


@dataclass(frozen=True, slots=True)
class Tiling:
    """The size of a layer's tiles."""

    positions: int
    """The maximum number of output positions of a tile."""
    is_tapered: bool = False
    """The last tile is split into smaller and smaller ones, so that the next layer waits for a short VEC only."""


@dataclass(frozen=True, slots=True)
class Tiler:
    """Factory of jobs for one machine, given the addresses of tensors."""

    profile: NpuProfile
    places: Mapping[str, int]
    memory: Memory
    pitches: Mapping[str, int] = field(default_factory=dict)
    """Vectors from one block of channels to the next, for tensors whose planes are not contiguous."""
    depthwise_unit: bool = True

    def stored(self, layer: Layer) -> StoredLayer:
        """Append the weights and the parameters of one layer to the memory."""
        parameters = self.memory.add_parameters(layer.stage)
        is_whole = isinstance(layer, PoolingLayer) and is_whole_plane(layer)
        return StoredLayer(layer, parameters, () if is_whole else tuple(self.blocks(layer)))

    def jobs(self, stored: StoredLayer, tiling: Tiling) -> list[Job]:
        """Return the jobs of one layer, in order."""
        layer = stored.layer
        if isinstance(layer, PoolingLayer) and is_whole_plane(layer):
            return self.whole_plane(layer, stored.parameters, tiling)
        tiles = self.tiles(layer, tiling)
        return [self.job(layer, tile, block, stored.parameters) for tile in tiles for block in stored.blocks]

    def tiles(self, layer: Layer, tiling: Tiling) -> Iterator[Tile]:
        """Yield tiles of the output plane that fit a bank of accumulators."""
        result, limit = layer.result, min(tiling.positions, self.profile.accumulator_depth)
        widest = min(result.width, limit, self._widest_tile(layer))
        columns = -(-result.width // -(-result.width // widest))  # equal parts of a row, so that array and vector unit overlap
        rows = limit // result.width if columns == result.width else 1
        smallest = -(-SHORTEST_TILE // result.width) if tiling.is_tapered else rows
        row = 0
        while row < result.height:
            left = result.height - row
            size = min(rows, left) if left > rows or left < 2 * smallest else left - left // 2
            for column in range(0, result.width, columns):
                yield Tile(row, size, column, min(columns, result.width - column))
            row += size

    def blocks(self, layer: Layer) -> Iterator[Block]:
        """Yield blocks of output channels that the array computes at once, and append their weights."""
        multiplies_blocks = isinstance(layer, ConvolutionLayer) and not self._has_window(layer)
        size = self.profile.rows if multiplies_blocks else self.profile.columns
        for first in range(0, layer.result.channels, size):
            count = min(size, layer.result.channels - first)
            yield Block(first, count, tuple(self._taps(layer, first, count)))

    def _taps(self, layer: Layer, first: int, count: int) -> Iterator[Tap]:
        if isinstance(layer, PoolingLayer):
            return self._pooling_taps(layer, first)
        if not layer.depthwise:
            return self._dense_taps(layer, first, count)
        return self._window_taps(layer, first) if self._has_window(layer) else self._diagonal_taps(layer, first, count)

    def _has_window(self, layer: Layer) -> bool:
        """Return true if the depthwise unit runs the layer; it supports no dilation, because it visits every vector."""
        undilated = (layer.window.row_dilation, layer.window.column_dilation) == (1, 1)
        return self.depthwise_unit and isinstance(layer, ConvolutionLayer) and layer.depthwise and undilated

    def _widest_tile(self, layer: Layer) -> int:
        """Return the maximum width of a tile."""
        window = layer.window
        return (LINE_COLUMNS - window.columns) // window.column_step + 1 if self._has_window(layer) else layer.result.width

    def _dense_taps(self, layer: ConvolutionLayer, first: int, count: int) -> Iterator[Tap]:
        columns, inputs = self.profile.columns, layer.weights.shape[1]
        weights, shifts = {}, {}
        for start in range(0, inputs, columns):
            weights[start // columns] = layer.weights[first : first + count, start : start + columns]
            if layer.shifts is not None:
                shifts[start // columns] = layer.shifts[first : first + count, start // BLOCK]
        yield from self._matrix_taps(weights, shifts)

    def _matrix_taps(self, weights: Mapping[int, Int8], shifts: Mapping[int, Int8]) -> Iterator[Tap]:
        """Yield all blocks of one tap before the next tap: their addresses are a plane apart, so REPEAT can combine them."""
        kernel_rows, kernel_columns = next(iter(weights.values())).shape[2:]
        for row in range(kernel_rows):
            for column in range(kernel_columns):
                for block, of_block in weights.items():
                    of_rows = shifts[block][:, row, column] if block in shifts else None
                    load = self.memory.add_weights(of_block[:, :, row, column], of_rows)
                    yield Tap(block, row, column, load, isa.Gemm(base=0))

    def _diagonal_taps(self, layer: ConvolutionLayer, first: int, count: int) -> Iterator[Tap]:
        """Yield a depthwise layer as diagonal matrices, if the depthwise unit does not support it."""
        columns = self.profile.columns
        blocks = {}
        for start in range(first, first + count, columns):
            channels = np.arange(start, min(start + columns, first + count))
            diagonal = np.zeros((count, len(channels), *layer.weights.shape[2:]), np.int8)
            diagonal[channels - first, channels - start] = layer.weights[channels, 0]
            blocks[start // columns] = diagonal
        yield from self._matrix_taps(blocks, {})

    def _window_taps(self, layer: ConvolutionLayer, first: int) -> Iterator[Tap]:
        """Yield one pass per piece of the kernel that fits the depthwise unit."""
        unit, window = depthwise_unit(self.profile), layer.window
        weights = layer.weights[first : first + self.profile.columns, 0]
        for rows, columns in unit.pieces((window.rows, window.columns), (window.row_step, window.column_step)):
            piece = weights[:, rows][:, :, columns]
            kernel = isa.Dw(
                base=0,
                kernel_rows=len(rows),
                kernel_columns=len(columns),
                row_dilation=rows.step,
                column_dilation=columns.step,
            )
            load = self.memory.add_weights(unit.arrange(piece))
            yield Tap(first // self.profile.columns, rows.start, columns.start, load, kernel)

    def _pooling_taps(self, layer: PoolingLayer, first: int) -> Iterator[Tap]:
        kernel = isa.Pool(base=0, kernel_rows=layer.window.rows, kernel_columns=layer.window.columns, maximum=int(layer.maximum))
        yield Tap(first // self.profile.columns, 0, 0, None, kernel)

    def job(self, layer: Layer, tile: Tile, block: Block, parameters: int) -> Job:
        """Return the job of one block of output channels for one tile of positions."""
        source, result, window = layer.source, layer.result, layer.window
        shape = isa.Shape(
            height=source.height,
            width=source.width,
            rows=tile.rows,
            columns=tile.columns,
            row_step=window.row_step,
            column_step=window.column_step,
            row_pitch=window.row_step * source.width,
            column_pitch=window.column_step,
            padding=layer.padding,
        )
        plane, offset = result.height * result.width, tile.row * result.width + tile.column
        first_block = block.first // self.profile.columns
        vector = self._vector(
            layer,
            count=tile.rows * tile.columns,
            parts=-(-block.count // self.profile.columns),
            offset=first_block * plane + offset,
            parameters=parameters + first_block * self.profile.lane_groups,
        )
        works = tuple(self._work(layer, tile, tap) for tap in block.taps)
        return Job(shape, works, residual_of(layer), replace(vector, part_pitch=plane))

    def _work(self, layer: Layer, tile: Tile, tap: Tap) -> Work:
        source, window = layer.source, layer.window
        top = tile.row * window.row_step - window.top + tap.row * window.row_dilation
        left = tile.column * window.column_step - window.left + tap.column * window.column_dilation
        plane = self.places[source.name] + tap.block * self.pitches.get(source.name, source.height * source.width)
        array_pass = replace(
            tap.kernel,
            base=(plane + top * source.width + left) & ADDRESS_MASK,
            top=top,
            left=left,
            row_dilation=window.row_dilation * tap.kernel.row_dilation,
            column_dilation=window.column_dilation * tap.kernel.column_dilation,
            tap_row_pitch=window.row_dilation * tap.kernel.row_dilation * source.width,
            tap_column_pitch=window.column_dilation * tap.kernel.column_dilation,
        )
        return Work(tap.load, array_pass)

    def whole_plane(self, layer: PoolingLayer, parameters: int, tiling: Tiling) -> list[Job]:
        """Return the jobs that reduce whole planes; the positions of a pass are channel blocks."""
        source = layer.source
        plane, blocks = source.height * source.width, -(-source.channels // self.profile.columns)
        jobs = []
        for first in range(0, blocks, self.profile.accumulator_depth):
            count = min(self.profile.accumulator_depth, blocks - first)
            shape = isa.Shape(
                height=source.height,
                width=source.width,
                rows=1,
                columns=count,
                row_step=0,
                column_step=0,
                row_pitch=0,
                column_pitch=plane,
            )
            rows = min(LARGEST_KERNEL, -(-source.height // 2) if tiling.is_tapered else source.height)
            reductions = self._reductions(layer, self.places[source.name] + first * plane, rows)
            works = tuple(Work(None, reduce) for reduce in reductions)
            vector = self._vector(layer, count=count, parts=1, offset=first, parameters=parameters)
            jobs.append(Job(shape, works, residual_of(layer), vector))
        return jobs

    def _reductions(self, layer: PoolingLayer, base: int, rows: int) -> Iterator[isa.Pool]:
        """Yield passes over `rows` rows of a plane, and over no more columns than the largest kernel has."""
        height, width = layer.source.height, layer.source.width
        for row in range(0, height, rows):
            for column in range(0, width, LARGEST_KERNEL):
                yield isa.Pool(
                    base=base + row * width + column,
                    top=row,
                    left=column,
                    kernel_rows=min(rows, height - row),
                    kernel_columns=min(LARGEST_KERNEL, width - column),
                    tap_row_pitch=width,
                    tap_column_pitch=1,
                    maximum=int(layer.maximum),
                )

    def _vector(self, layer: Layer, *, count: int, parts: int, offset: int, parameters: int) -> isa.Vec:
        output, addend = layer.stage.output, layer.stage.addend
        return isa.Vec(
            accumulator=0,
            count=count,
            parts=parts,
            destination=self.places[layer.result.name] + offset,
            parameters=parameters,
            residual=self.places[addend.tensor.name] + offset if addend else 0,
            zero=output.zero,
            low=output.low,
            high=output.high,
            add=int(addend is not None),
        )


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer, the first group of its parameters, and its blocks with their weight rows; no blocks if it reduces whole planes."""

    layer: Layer
    parameters: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Tap:
    """A pass of a block, independent of the tile: channel block, first tap, weights, kernel."""

    block: int
    row: int
    column: int
    load: WeightRows | None
    kernel: isa.ArrayPass


@dataclass(frozen=True, slots=True)
class Block:
    """Output channels that one job computes, and their passes."""

    first: int
    count: int
    taps: tuple[Tap, ...]


def is_whole_plane(layer: PoolingLayer) -> bool:
    """Return true if the window is the whole input plane."""
    window, source = layer.window, layer.source
    whole = (window.rows, window.columns, window.top, window.left) == (source.height, source.width, 0, 0)
    undilated = (window.row_dilation, window.column_dilation) == (1, 1)
    return whole and undilated and layer.result.height * layer.result.width == 1


def residual_of(layer: Layer) -> isa.Residual | None:
    """Return the RESIDUAL of a layer with an addition, else None; raise `OverflowError` if its scales are too far apart."""
    addend = layer.stage.addend
    if addend is None:
        return None
    main = (addend.main_scale, addend.main_zero)
    other = (addend.tensor.scale, addend.tensor.zero_point)
    scale = residual_scale(main, other, layer.result.scale, addend.output)
    output: Range = scale.output
    return isa.Residual(
        main_zero=scale.main_zero,
        other_zero=scale.other_zero,
        main_multiplier=scale.main_multiplier,
        other_multiplier=scale.other_multiplier,
        shift=scale.shift,
        zero=output.zero,
        low=output.low,
        high=output.high,
    )
