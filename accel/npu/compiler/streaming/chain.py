"""Create the jobs and transfers of a chain of layers, row by row, from its plan (rows.py)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from accel.npu import isa
from accel.npu.compiler.streaming.buffers import Resident, TensorRuns
from accel.npu.compiler.streaming.jobs import Chain, Finish, Task
from accel.npu.compiler.streaming.order import Stream, Transfer
from accel.npu.compiler.streaming.plan import chunks_of, loads_of
from accel.npu.compiler.streaming.rows import ChainPlan, Row, parameter_groups
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.compiler.tile import Block, Tap, WeightRows, Work, residual_of
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.lowering.layers import Layer, PoolingLayer

CHUNK_ROWS = 512
"""Weight rows per transfer."""
BLOCKS_PER_TRANSFER = 4
"""Blocks of a row per transfer: the memory of the first ones can be reused while the last ones are still stored."""


@dataclass(slots=True)
class ChainLayer:
    """One layer of the chain: its passes, the addresses of its off-chip constants, and the constants on the chip."""

    layer: Layer
    blocks: tuple[Block, ...]
    weights_at: int
    parameters_at: int
    chunks: list[tuple[int, int]] = field(default_factory=list)
    weights: dict[int, Resident] = field(default_factory=dict)
    parameters: Resident | None = None


def row_blocks(layer: Layer, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return blocks whose passes read one input row each, because the rows in a ring buffer are not contiguous."""
    if not isinstance(layer, PoolingLayer):
        return tuple(blocks)
    return tuple(replace(block, taps=tuple(_by_row(block.taps[0], layer.window.rows))) for block in blocks)


def _by_row(tap: Tap, rows: int) -> Iterator[Tap]:
    for row in range(rows):
        yield replace(tap, row=row, kernel=replace(tap.kernel, kernel_rows=1))


class ChainWork:
    """Generator of the jobs and transfers of a chain."""

    def __init__(self, streamer: Streamer, plan: ChainPlan, layers: Sequence[ChainLayer]) -> None:
        self._streamer, self._plan, self._layers = streamer, plan, layers
        self._profile = streamer.profile
        self._loads: dict[tuple[str, int], tuple[Transfer, ...]] = {}
        self._last_vectors: dict[tuple[str, int], int] = {}
        """The last VEC of each row that the chain computed."""
        self._tensors = plan.tensors
        self._results = {layer.layer.result.name for layer in layers}
        limit = min(CHUNK_ROWS, self._profile.weight_rows // 8)
        for layer in layers:
            layer.chunks = list(chunks_of(loads_of(layer.blocks), limit))
        sizes = [count for layer in layers for _, count in layer.chunks]
        rows = sum(sizes)
        self._is_tight = rows + max(sizes, default=0) > self._profile.weight_rows
        self._at = streamer.weights.allocate(rows) if self._is_tight else 0
        self._parameters_at = streamer.parameters.allocate(sum(parameter_groups(layer.layer, self._profile) for layer in layers))

    def run(self) -> None:
        """Append the jobs of all rows, in the order of the plan."""
        for row in self._plan.order:
            self._row(self._layers[row.layer], row)

    def _row(self, chain_layer: ChainLayer, row: Row) -> None:
        """Append one job per block of output channels."""
        layer = chain_layer.layer
        source, result, addend = layer.source, layer.result, layer.stage.addend
        inputs = tuple(transfer for read in row.reads for transfer in self._row_loads(source.name, read))
        after = max((self._last_vectors.get((source.name, read), -1) for read in row.reads), default=-1)
        addend_loads = self._row_loads(addend.tensor.name, row.row) if addend else ()
        shape, width = _row_shape(layer), self._plan.buffers[result.name].width
        unstored: list[Block] = []
        for block in chain_layer.blocks:
            works = tuple(self._work(layer, row.row, tap) for tap in block.taps)
            finish = self._finish(chain_layer, block, row.row, addend_loads)
            task = Task(shape=shape, chains=(Chain(works),), finishes=(finish,), inputs=inputs, after_vector=after)
            number = self._streamer.jobs.add(task, lambda load: self._weights_of(chain_layer, load), self._use_weights)
            inputs, after = (), -1
            self._streamer.mark_vector(finish.vector.destination, finish.vector.parts * width, number)
            assert chain_layer.parameters is not None
            self._streamer.parameters.use(chain_layer.parameters.at, chain_layer.parameters.lines, number)
            self._last_vectors[result.name, row.row] = number
            unstored.append(block)
            if len(unstored) * finish.vector.parts >= BLOCKS_PER_TRANSFER or block is chain_layer.blocks[-1]:
                self._store(layer, row.row, unstored)
                unstored = []
        for read in row.reads:
            buffer = self._plan.buffers[source.name]
            self._streamer.mark_read(buffer.address(read), buffer.blocks, buffer.width, 0, buffer.width)

    def _work(self, layer: Layer, row: int, tap: Tap) -> Work:
        source, window, buffer = layer.source, layer.window, self._plan.buffers[layer.source.name]
        top = row * window.row_step - window.top + tap.row * window.row_dilation
        left = tap.column * window.column_dilation - window.left
        read = min(max(top, 0), source.height - 1)  # the array reads padding outside of the plane, not memory
        array_pass = replace(
            tap.kernel,
            base=(buffer.address(read) + tap.block * buffer.width + left) & ADDRESS_MASK,
            top=top,
            left=left,
            column_dilation=window.column_dilation,
            tap_column_pitch=window.column_dilation,
        )
        return Work(tap.load, array_pass)

    def _finish(self, chain_layer: ChainLayer, block: Block, row: int, addend_loads: tuple[Transfer, ...]) -> Finish:
        layer, buffers = chain_layer.layer, self._plan.buffers
        buffer, addend, output = buffers[layer.result.name], layer.stage.addend, layer.stage.output
        first_block, parts = block.first // self._profile.columns, -(-block.count // self._profile.columns)
        if chain_layer.parameters is None:
            groups = parameter_groups(layer, self._profile)
            chain_layer.parameters = self._streamer.load_parameters(chain_layer.parameters_at, 0, groups, self._parameters_at)
            self._parameters_at += groups
        destination = buffer.address(row) + first_block * buffer.width
        vector = isa.Vec(
            accumulator=0,
            count=buffer.width,
            parts=parts,
            destination=destination,
            part_pitch=buffer.width,
            parameters=chain_layer.parameters.at + first_block * self._profile.lane_groups,
            residual=buffers[addend.tensor.name].address(row) + first_block * buffer.width if addend else 0,
            zero=output.zero,
            low=output.low,
            high=output.high,
            add=int(addend is not None),
        )
        stores = self._streamer.last_store(destination, parts * buffer.width)
        return Finish(vector, residual_of(layer), (chain_layer.parameters.transfer, *addend_loads, *stores))

    # -- transfers ----------------------------------------------------------------------------------------------------

    def _row_loads(self, name: str, row: int) -> tuple[Transfer, ...]:
        """Return the transfers that load a row from external memory; none if the chain computes it."""
        if name in self._results:
            return ()
        if (name, row) not in self._loads:
            blocks = self._plan.buffers[name].blocks
            firsts = range(0, blocks, BLOCKS_PER_TRANSFER)
            runs = [self._runs(name, row, first, min(BLOCKS_PER_TRANSFER, blocks - first)) for first in firsts]
            self._loads[name, row] = tuple(self._streamer.load_tensor(run, Stream.INPUTS) for run in runs)
        return self._loads[name, row]

    def _store(self, layer: Layer, row: int, blocks: Sequence[Block]) -> None:
        name, columns = layer.result.name, self._profile.columns
        if name in self._plan.stored:
            first = blocks[0].first // columns
            count = -(-(blocks[-1].first + blocks[-1].count) // columns) - first
            self._streamer.store_tensor(self._runs(name, row, first, count), self._last_vectors[name, row])

    def _runs(self, name: str, row: int, first: int, blocks: int) -> TensorRuns:
        buffer, height = self._plan.buffers[name], self._tensors[name].height
        return TensorRuns(
            tensor=name,
            offset=(first * height + row) * buffer.width,
            plane=height * buffer.width,
            count=buffer.width,
            runs=blocks,
            local=buffer.address(row) + first * buffer.width,
            local_pitch=buffer.width,
        )

    def _weights_of(self, layer: ChainLayer, load: WeightRows) -> Resident:
        """Return the chunk that contains the rows; load it on first use. It stays on the chip for the whole chain."""
        first, rows = layer.chunks[bisect_right(layer.chunks, (load.address, self._profile.weight_rows)) - 1]
        if first not in layer.weights:
            at, self._at = (self._at, self._at + rows) if self._is_tight else (self._streamer.weights.allocate(rows), 0)
            layer.weights[first] = self._streamer.load_weights(layer.weights_at, first, rows, at)
        return layer.weights[first]

    def _use_weights(self, chunk: Resident, pass_number: int) -> None:
        self._streamer.weights.use(chunk.at, chunk.lines, pass_number)


def _row_shape(layer: Layer) -> isa.Shape:
    return isa.Shape(
        height=layer.source.height,
        width=layer.source.width,
        rows=1,
        columns=layer.result.width,
        row_step=layer.window.row_step,
        column_step=layer.window.column_step,
        row_pitch=0,
        column_pitch=layer.window.column_step,
        padding=layer.padding,
    )
