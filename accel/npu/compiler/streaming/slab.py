"""Create the jobs and transfers of one slab of a layer, from its plan (plan.py)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accel.npu.compiler.streaming.buffers import Resident, TensorRuns
from accel.npu.compiler.streaming.jobs import Chain, Finish, Task
from accel.npu.compiler.streaming.order import Stream, Transfer
from accel.npu.compiler.streaming.plan import (
    LayerPlan,
    Part,
    RowTile,
    Slab,
    block_rows,
    buffer_loads,
    chunks_of,
    is_reduction,
    loads_of,
    part_order,
)
from accel.npu.compiler.streaming.streamer import Streamer
from accel.npu.compiler.tile import Block, Job, Memory, Tiler, Tiling, WeightRows
from accel.npu.lowering.layers import ConvolutionLayer, Layer

CHUNK_ROWS = 512
"""Weight rows per transfer: transfers complete in order, so a long one would delay a store that the array waits for."""
LOAD_VECTORS = 256
"""Vectors per transfer of an input, for the same reason."""


@dataclass(frozen=True, slots=True)
class OffChipLayout:
    """External addresses of a layer's constants; stored size of its input, and steps between the rows and columns read."""

    weights_at: int
    parameters_at: int
    height: int
    width: int
    row_step: int = 1
    column_step: int = 1


class SlabWork:
    """Generator of the jobs and transfers of one slab."""

    def __init__(self, streamer: Streamer, layer: Layer, slab: Slab, plan: LayerPlan, off_chip: OffChipLayout) -> None:
        self._streamer, self._layer, self._slab, self._plan, self._off_chip = streamer, layer, slab, plan, off_chip
        self._profile = streamer.profile
        self._pitch = plan.buffer_rows * layer.source.width
        self._part_vectors = (plan.parts[0].count if plan.parts else slab.inputs) * self._pitch
        self._slots_at = plan.part_slots * self._part_vectors
        self._slot = 0
        self._weights: dict[int, Resident] = {}
        self._parameters: list[Resident] = []
        self._chunks: list[tuple[int, int]] = []
        self._weights_at = 0
        """First weight row of the group, if its weights stay."""
        self._used: list[Resident] = []
        """The parameters of the current task's VECs."""

    def run(self) -> None:
        """Append the jobs."""
        if self._plan.parts:
            self._sum_parts()
        else:
            self._slide()

    def _slide(self) -> None:
        """Append the jobs, by group, tile and block."""
        resident: RowTile | None = None
        for group in self._plan.groups:
            self._begin_group(group)
            for tile, top, low, high in buffer_loads(self._plan.tiles, self._plan.buffer_rows, resident):
                inputs = tuple(self._load_rows(low, high, Part(0, self._slab.inputs), (low - top) * self._layer.source.width))
                resident = RowTile(0, 0, top, high)
                self._tile(tile, top, group, inputs)
                width = self._layer.source.width
                self._streamer.mark_read(0, self._slab.inputs, self._pitch, (tile.low - top) * width, (tile.high - top) * width)

    def _tile(self, tile: RowTile, top: int, group: Sequence[Block], inputs: tuple[Transfer, ...]) -> None:
        layer, source, part = self._layer, self._layer.source, self._cut(tile)
        at = (tile.low - top) * source.width - self._slab.first_input * self._pitch
        tiler = self._tiler(at)
        if is_reduction(layer):
            self._reduce(part, inputs)
            return
        for block in group:
            for cut in tiler.tiles(part, Tiling(self._profile.accumulator_depth)):
                offset = (tile.first + cut.row) * layer.result.width + cut.column
                self._job(tiler.job(part, cut, block, 0), block.first // self._profile.columns, offset, inputs)

    def _cut(self, tile: RowTile) -> Layer:
        """Return the part of the layer that computes the tile."""
        layer, window = self._layer, self._layer.window
        return replace(
            layer,
            source=replace(layer.source, height=tile.high - tile.low),
            result=replace(layer.result, height=tile.last - tile.first),
            window=replace(window, top=window.top - tile.first * window.row_step + tile.low),
        )

    def _reduce(self, part: Layer, inputs: tuple[Transfer, ...]) -> None:
        """Append the jobs of a reduction of whole planes."""
        assert not isinstance(part, ConvolutionLayer)
        channels = self._slab.inputs * self._profile.columns
        narrow = replace(part, source=replace(part.source, channels=channels))
        for job in self._tiler(0).whole_plane(narrow, 0, Tiling(self._profile.accumulator_depth)):
            self._job(job, self._slab.first_input, job.vector.destination, inputs)

    def _tiler(self, at: int) -> Tiler:
        """Return a tiler whose jobs read the buffer at `at`; `_finish` sets the addresses of results."""
        layer = self._layer
        names = [layer.result.name, *([layer.stage.addend.tensor.name] if layer.stage.addend else [])]
        places = {**dict.fromkeys(names, 0), layer.source.name: at}
        memory = Memory(self._profile)
        return Tiler(self._profile, places, memory, {layer.source.name: self._pitch})

    def _job(self, job: Job, first_block: int, offset: int, inputs: tuple[Transfer, ...]) -> None:
        """Append a job as a separate task, and store its result."""
        if not self._plan.weights_stay:
            self._weights = {}
        finish, runs = self._finish(job, first_block, offset)
        task = Task(shape=job.shape, chains=(Chain(job.works),), finishes=(finish,), inputs=inputs)
        self._store([runs], self._streamer.jobs.add(task, self._weights_of, self._use_weights))

    def _finish(self, job: Job, first_block: int, offset: int) -> tuple[Finish, TensorRuns]:
        """Assign a slot to the job, for its residual and its result."""
        vector, result = job.vector, self._layer.result
        plane = result.height * result.width
        local = self._slots_at + self._slot % self._plan.slots * self._plan.slot_vectors
        self._slot += 1
        runs = TensorRuns(
            tensor=result.name,
            offset=first_block * plane + offset,
            plane=plane,
            count=vector.count,
            runs=vector.parts,
            local=local,
            local_pitch=vector.count,
        )
        parameters = self._parameters_of(first_block, vector.parts)
        addend = self._layer.stage.addend
        if addend is not None:
            before: tuple[Transfer, ...] = (self._streamer.load_tensor(replace(runs, tensor=addend.tensor.name), Stream.SLOTS),)
        else:
            before = self._streamer.last_store(local, vector.parts * vector.count)
        self._used.append(parameters)
        group = parameters.at + first_block * self._profile.lane_groups - parameters.first
        placed = replace(vector, destination=local, residual=local, part_pitch=vector.count, parameters=group)
        return Finish(placed, job.residual, (parameters.transfer, *before)), runs

    def _store(self, results: Sequence[TensorRuns], first_vector: int) -> None:
        """Store the results of a task's VECs."""
        for number, (runs, parameters) in enumerate(zip(results, self._used, strict=True), first_vector):
            self._streamer.parameters.use(parameters.at, parameters.lines, number)
            self._streamer.store_tensor(runs, number)
        self._used = []

    # -- parts of the input that accumulate ---------------------------------------------------------------------------

    def _sum_parts(self) -> None:
        """Append the jobs, by tile, group, part and block."""
        blocks = [block for group in self._plan.groups for block in group]
        loads = sorted(loads_of(blocks), key=lambda load: load.address)
        self._chunks = list(chunks_of(loads, min(CHUNK_ROWS, self._profile.weight_rows // 8)))
        started: tuple[RowTile, int] | None = None
        left = 0
        for tile, number, part, slot, is_new in part_order(self._plan):
            if started is None or started[0] != tile:
                self._weights = {}
            if (tile, number) != started:
                started, left = (tile, number), len(self._plan.parts)
            left -= 1
            inputs = tuple(self._load_rows(tile.low, tile.high, part, slot * self._part_vectors)) if is_new else ()
            is_first = left == len(self._plan.parts) - 1
            self._add_part(tile, self._plan.groups[number], part, slot, inputs, is_first=is_first, is_last=not left)

    def _add_part(
        self,
        tile: RowTile,
        group: Sequence[Block],
        part: Part,
        slot: int,
        inputs: tuple[Transfer, ...],
        *,
        is_first: bool,
        is_last: bool,
    ) -> None:
        layer, depth = self._cut(tile), self._profile.accumulator_depth
        first = self._slab.first_input + part.first
        tiler = self._tiler(slot * self._part_vectors - first * self._pitch)
        (whole,) = tiler.tiles(layer, Tiling(self._profile.accumulator_depth))
        positions = layer.result.height * layer.result.width
        per_bank = depth // positions
        chains, finishes, results = [], [], []
        for number, block in enumerate(group):
            taps = tuple(tap for tap in block.taps if first <= tap.block < first + part.count)
            job = tiler.job(layer, whole, replace(block, taps=taps), 0)
            accumulator = number // per_bank * depth + number % per_bank * positions
            chains.append(Chain(job.works, accumulator, is_first))
            if is_last:
                placed = replace(job, vector=replace(job.vector, accumulator=accumulator))
                offset = tile.first * layer.result.width
                finish, runs = self._finish(placed, block.first // self._profile.columns, offset)
                finishes.append(finish)
                results.append(runs)
        task = Task(shape=job.shape, chains=tuple(chains), finishes=tuple(finishes), inputs=inputs, is_wide=True)
        self._store(results, self._streamer.jobs.add(task, self._weights_of, self._use_weights))
        width = layer.source.width
        low = slot * self._part_vectors
        self._streamer.mark_read(low, part.count, self._pitch, 0, (tile.high - tile.low) * width)

    # -- transfers ----------------------------------------------------------------------------------------------------

    def _load_rows(self, low: int, high: int, part: Part, local: int) -> Iterator[Transfer]:
        """Load rows of a part's input blocks, several blocks per transfer; row by row if the layer skips rows."""
        source, off_chip = self._layer.source, self._off_chip
        rows, columns = 1, source.width
        if off_chip.column_step > 1:
            columns = 1
        elif off_chip.row_step == 1:
            rows = max(high - low, 1)
        together = max(1, LOAD_VECTORS // (rows * columns))
        for row in range(low, high, rows):
            for column in range(0, source.width, columns):
                for first in range(0, part.count, together):
                    block = self._slab.first_input + part.first + first
                    runs = TensorRuns(
                        tensor=source.name,
                        offset=(block * off_chip.height + row * off_chip.row_step) * off_chip.width
                        + column * off_chip.column_step,
                        plane=off_chip.height * off_chip.width,
                        count=rows * columns,
                        runs=min(together, part.count - first),
                        local=local + first * self._pitch + (row - low) * source.width + column,
                        local_pitch=self._pitch,
                    )
                    yield self._streamer.load_tensor(runs, Stream.INPUTS)

    def _begin_group(self, group: Sequence[Block]) -> None:
        """Allocate weights that stay in one piece, so that none of them overwrites another."""
        self._weights = {}
        stays = self._plan.weights_stay
        pieces = [loads_of([block]) for block in group] if not stays else [loads_of(group)]
        limit = min(CHUNK_ROWS, self._profile.weight_rows // 4)
        self._chunks = [chunk for loads in pieces for chunk in chunks_of(loads, limit)]
        rows = sum(map(block_rows, group))
        self._weights_at = self._streamer.weights.allocate(rows) if stays and rows else 0

    def _weights_of(self, load: WeightRows) -> Resident:
        """Return the chunk that contains the rows; load it if it is not on the chip."""
        first, rows = self._chunks[bisect_right(self._chunks, (load.address, self._profile.weight_rows)) - 1]
        if first not in self._weights:
            streamer = self._streamer
            offset = first - self._chunks[0][0]
            at = self._weights_at + offset if self._plan.weights_stay else streamer.weights.allocate(rows)
            self._weights[first] = streamer.load_weights(self._off_chip.weights_at, first, rows, at)
        return self._weights[first]

    def _use_weights(self, chunk: Resident, pass_number: int) -> None:
        self._streamer.weights.use(chunk.at, chunk.lines, pass_number)

    def _parameters_of(self, first_block: int, parts: int) -> Resident:
        """Return the chunk with the parameters of some blocks; a new chunk evicts the chunks that it overwrites."""
        lane_groups, buffer = self._profile.lane_groups, self._streamer.parameters
        first, groups = first_block * lane_groups, parts * lane_groups
        for chunk in self._parameters:
            if chunk.first <= first and first + groups <= chunk.first + chunk.lines:
                return chunk
        last = (self._slab.blocks[-1].first + self._slab.blocks[-1].count - 1) // self._profile.columns + 1
        count = min(max(groups, buffer.lines // 8), max(groups, last * lane_groups - first))
        new = self._streamer.load_parameters(self._off_chip.parameters_at, first, count, buffer.allocate(count))
        kept = [chunk for chunk in self._parameters if chunk.at + chunk.lines <= new.at or new.at + new.lines <= chunk.at]
        self._parameters = [*kept, new]
        return new
