"""The jobs and transfers of a chain of layers, row by row, as its plan (rows.py) says."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from accel.npu import isa
from accel.npu.compiler.streaming.jobs import Chain, Finish, Task
from accel.npu.compiler.streaming.order import Stream, Transfer
from accel.npu.compiler.streaming.plan import chunks_of, loads_of
from accel.npu.compiler.streaming.rooms import Resident, TensorRuns
from accel.npu.compiler.streaming.rows import ChainPlan, Row, parameter_groups
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.compiler.tile import Block, Tap, WeightRows, Work, residual_of
from accel.npu.geometry import ADDRESS_MASK
from accel.npu.lowering.layers import Layer, PoolingLayer

CHUNK_ROWS = 512
"""Weight rows per transfer."""
TOGETHER = 4
"""Blocks of a row per transfer: the room of the first ones is filled again while the last ones are still stored."""


@dataclass(slots=True)
class ChainLayer:
    """One layer of the chain: where its constants lie outside, its passes, and what of the constants is on the chip."""

    layer: Layer
    blocks: tuple[Block, ...]
    weights_at: int
    parameters_at: int
    chunks: list[tuple[int, int]] = field(default_factory=list)
    weights: dict[int, Resident] = field(default_factory=dict)
    parameters: Resident | None = None


def row_blocks(layer: Layer, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return blocks with passes that take one row of the input each, for the rows of a ring do not follow one another."""
    if not isinstance(layer, PoolingLayer):
        return tuple(blocks)
    return tuple(replace(block, taps=tuple(_by_row(block.taps[0], layer.window.rows))) for block in blocks)


def _by_row(tap: Tap, rows: int) -> Iterator[Tap]:
    for row in range(rows):
        yield replace(tap, row=row, kernel=replace(tap.kernel, kernel_rows=1))


class ChainWork:
    """Makes the jobs of a chain."""

    def __init__(self, streamer: Streamer, plan: ChainPlan, layers: Sequence[ChainLayer]) -> None:
        self._streamer, self._plan, self._layers = streamer, plan, layers
        self._profile = streamer.profile
        self._loaded: dict[tuple[str, int], tuple[Transfer, ...]] = {}
        self._made: dict[tuple[str, int], int] = {}
        """The last VEC of each row that was made."""
        self._tensors = plan.tensors
        self._results = {layer.layer.result.name for layer in layers}
        limit = min(CHUNK_ROWS, self._profile.weight_rows // 8)
        for layer in layers:
            layer.chunks = list(chunks_of(loads_of(layer.blocks), limit))
        sizes = [count for layer in layers for _, count in layer.chunks]
        rows = sum(sizes)
        self._is_tight = rows + max(sizes, default=0) > self._profile.weight_rows
        self._at = streamer.weights.take(rows) if self._is_tight else 0
        self._parameters_at = streamer.parameters.take(sum(parameter_groups(layer.layer, self._profile) for layer in layers))

    def run(self) -> None:
        """Go through the rows."""
        for row in self._plan.order:
            self._row(self._layers[row.layer], row)

    def _row(self, of: ChainLayer, row: Row) -> None:
        """Append one job per block of output channels."""
        source, result = of.layer.source, of.layer.result
        inputs = tuple(transfer for read in row.reads for transfer in self._there(source.name, read))
        after = max((self._made.get((source.name, read), -1) for read in row.reads), default=-1)
        addend = of.layer.stage.addend
        behind = self._there(addend.tensor.name, row.row) if addend else ()
        shape, ring = _row_shape(of.layer), self._plan.rings[result.name]
        waiting: list[Block] = []
        for block in of.blocks:
            works = tuple(self._work(of.layer, row.row, tap) for tap in block.taps)
            finish = self._finish(of, block, row.row, behind)
            task = Task(shape=shape, chains=(Chain(works),), finishes=(finish,), inputs=inputs, after_vector=after)
            number = self._streamer.jobs.add(task, lambda load: self._weights_of(of, load), self._use_weights)
            inputs, after = (), -1
            self._streamer.mark_vector(finish.vector.destination, finish.vector.parts * ring.width, number)
            assert of.parameters is not None
            self._streamer.parameters.use(of.parameters.at, of.parameters.lines, number)
            self._made[result.name, row.row] = number
            waiting.append(block)
            if len(waiting) * finish.vector.parts >= TOGETHER or block is of.blocks[-1]:
                self._store(of.layer, row.row, waiting)
                waiting = []
        for read in row.reads:
            ring = self._plan.rings[source.name]
            self._streamer.mark_read(ring.address(read), ring.blocks, ring.width, 0, ring.width)

    def _work(self, layer: Layer, row: int, tap: Tap) -> Work:
        source, window, ring = layer.source, layer.window, self._plan.rings[layer.source.name]
        top = row * window.row_step - window.top + tap.row * window.row_dilation
        left = tap.column * window.column_dilation - window.left
        read = min(max(top, 0), source.height - 1)  # outside of the plane nothing is read
        array_pass = replace(
            tap.kernel,
            base=(ring.address(read) + tap.block * ring.width + left) & ADDRESS_MASK,
            top=top,
            left=left,
            column_dilation=window.column_dilation,
            tap_column_pitch=window.column_dilation,
        )
        return Work(tap.load, array_pass)

    def _finish(self, of: ChainLayer, block: Block, row: int, behind: tuple[Transfer, ...]) -> Finish:
        layer, rings = of.layer, self._plan.rings
        ring, addend, output = rings[layer.result.name], layer.stage.addend, layer.stage.output
        first_block, parts = block.first // self._profile.columns, -(-block.count // self._profile.columns)
        if of.parameters is None:
            groups = parameter_groups(layer, self._profile)
            of.parameters = self._streamer.load_parameters(of.parameters_at, 0, groups, self._parameters_at)
            self._parameters_at += groups
        destination = ring.address(row) + first_block * ring.width
        vector = isa.Vec(
            accumulator=0,
            count=ring.width,
            parts=parts,
            destination=destination,
            part_pitch=ring.width,
            parameters=of.parameters.at + first_block * self._profile.lane_groups,
            residual=rings[addend.tensor.name].address(row) + first_block * ring.width if addend else 0,
            zero=output.zero,
            low=output.low,
            high=output.high,
            add=int(addend is not None),
        )
        free = self._streamer.stored(destination, parts * ring.width)
        return Finish(vector, residual_of(layer), (of.parameters.transfer, *behind, *free))

    # -- what comes and goes ------------------------------------------------------------------------------------------

    def _there(self, name: str, row: int) -> tuple[Transfer, ...]:
        """Return the transfers that bring a row in, if it comes from outside."""
        if name in self._results:
            return ()
        if (name, row) not in self._loaded:
            blocks = range(self._plan.rings[name].blocks)
            runs = [self._runs(name, row, first, min(TOGETHER, len(blocks) - first)) for first in blocks[::TOGETHER]]
            self._loaded[name, row] = tuple(self._streamer.load_tensor(run, Stream.INPUTS) for run in runs)
        return self._loaded[name, row]

    def _store(self, layer: Layer, row: int, blocks: Sequence[Block]) -> None:
        name, columns = layer.result.name, self._profile.columns
        if name in self._plan.stored:
            first = blocks[0].first // columns
            count = -(-(blocks[-1].first + blocks[-1].count) // columns) - first
            self._streamer.store_tensor(self._runs(name, row, first, count), self._made[name, row])

    def _runs(self, name: str, row: int, first: int, blocks: int) -> TensorRuns:
        ring, height = self._plan.rings[name], self._tensors[name].height
        return TensorRuns(
            tensor=name,
            offset=(first * height + row) * ring.width,
            plane=height * ring.width,
            count=ring.width,
            runs=blocks,
            local=ring.address(row) + first * ring.width,
            local_pitch=ring.width,
        )

    def _weights_of(self, of: ChainLayer, load: WeightRows) -> Resident:
        """Return the chunk that the rows are in; bring it in when it is not there. It stays for the whole chain."""
        first, rows = of.chunks[bisect_right(of.chunks, (load.address, self._profile.weight_rows)) - 1]
        if first not in of.weights:
            at, self._at = (self._at, self._at + rows) if self._is_tight else (self._streamer.weights.take(rows), 0)
            of.weights[first] = self._streamer.load_weights(of.weights_at, first, rows, at)
        return of.weights[first]

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
