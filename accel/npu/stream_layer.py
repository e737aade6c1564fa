"""One layer through the external memory: its slabs, tiles and jobs, as stream_plan.py chose them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from accel.npu import isa
from accel.npu.layers import ConvolutionLayer, Layer
from accel.npu.place import DoesNotFitError
from accel.npu.profile import NpuProfile
from accel.npu.stream import Streamer
from accel.npu.stream_jobs import Chain, Finish, Task
from accel.npu.stream_order import Stream, Transfer
from accel.npu.stream_plan import LayerPlan, Rows, Slab, block_rows, buffer_loads, is_reduction, plan_slab
from accel.npu.stream_rooms import Resident, TensorRuns
from accel.npu.tile import Block, Job, Memory, Tiler

CHUNK_ROWS = 1024
"""Weight rows per transfer: short enough to go ahead of a tile, long enough to be worth a transfer."""


def stream_layer(layer: Layer, streamer: Streamer) -> None:
    """Append the work and the transfers of one layer; raise `DoesNotFitError` when not even one row of it fits."""
    profile, memory = streamer.profile, Memory(streamer.profile)
    memory.add_parameters(layer.stage)
    thin = _without_rows_between(layer)
    blocks = tuple(Tiler(profile, {}, memory, 1).blocks(thin))
    weights = streamer.constants.add(memory.weights())
    parameters = streamer.constants.add(np.pad(memory.parameters(), ((0, 0), (0, 0), (0, 1))))
    for slab in _slabs(thin, blocks, profile):
        plan = plan_slab(thin, slab, profile)
        if plan is None:
            raise DoesNotFitError(
                f"layer {layer.name}: the input rows of one output row must fit the {profile.activation_vectors} vectors of "
                f"{profile.columns} bytes on {profile.name}, but they do not; use a smaller input or a larger NPU"
            )
        row_step = layer.window.row_step // thin.window.row_step
        _SlabWork(streamer, thin, slab, plan, (weights, parameters), (row_step, layer.source.height)).run()


def _without_rows_between(layer: Layer) -> Layer:
    """A kernel of one row that steps over rows never reads them: for it the input has only the others."""
    window = layer.window
    is_padded = window.top > 0 or (layer.result.height - 1) * window.row_step >= layer.source.height
    if window.rows > 1 or is_padded:
        return layer
    thin = replace(window, row_step=1)
    return replace(layer, source=replace(layer.source, height=layer.result.height), window=thin)


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
        chosen = [block for block in blocks if first <= block.first // profile.columns < first + together]
        yield Slab(first, min(together, inputs - first), tuple(chosen))


class _SlabWork:
    """The tiles and jobs of one slab of a layer."""

    def __init__(
        self,
        streamer: Streamer,
        layer: Layer,
        slab: Slab,
        plan: LayerPlan,
        constants: tuple[int, int],
        stored_rows: tuple[int, int],
    ) -> None:
        """`constants` are the words where weights and parameters begin; `stored_rows` the rows per input row, and all of them."""
        self._streamer, self._layer, self._slab, self._plan = streamer, layer, slab, plan
        self._weights_at, self._parameters_at = constants
        self._row_step, self._stored_rows = stored_rows
        self._profile = streamer.profile
        self._pitch = plan.buffer_rows * layer.source.width
        self._slots_at = slab.inputs * self._pitch
        self._slot = 0
        self._weights: dict[int, Resident] = {}
        self._parameters: list[Resident] = []
        self._chunks: list[tuple[int, int]] = []
        self._room = 0

    def run(self) -> None:
        """Go through groups of blocks, tiles, blocks."""
        resident: Rows | None = None
        for group in self._plan.groups:
            self._begin_group(group)
            for tile, top, low, high in buffer_loads(self._plan.tiles, self._plan.buffer_rows, resident):
                inputs = tuple(self._load_rows(top, low, high))
                resident = Rows(0, 0, top, high)
                self._tile(tile, top, group, inputs)
                width = self._layer.source.width
                self._streamer.mark_read(self._slab.inputs, self._pitch, (tile.low - top) * width, (tile.high - top) * width)

    def _tile(self, tile: Rows, top: int, group: Sequence[Block], inputs: tuple[Transfer, ...]) -> None:
        layer, source, window = self._layer, self._layer.source, self._layer.window
        part = replace(
            layer,
            source=replace(source, height=tile.high - tile.low),
            result=replace(layer.result, height=tile.last - tile.first),
            window=replace(window, top=window.top - tile.first * window.row_step + tile.low),
        )
        at = (tile.low - top) * source.width - self._slab.first_input * self._pitch
        tiler = self._tiler(at)
        if is_reduction(layer):
            self._reduce(part, inputs)
            return
        for block in group:
            for cut in tiler.tiles(part):
                offset = (tile.first + cut.row) * layer.result.width + cut.column
                self._job(tiler.job(part, cut, block, 0), block.first // self._profile.columns, offset, inputs)

    def _reduce(self, part: Layer, inputs: tuple[Transfer, ...]) -> None:
        """Whole planes: a position per block."""
        assert not isinstance(part, ConvolutionLayer)
        channels = self._slab.inputs * self._profile.columns
        narrow = replace(part, source=replace(part.source, channels=channels))
        for job in self._tiler(0).whole_plane(narrow, 0):
            self._job(job, self._slab.first_input, job.vector.destination, inputs)

    def _tiler(self, at: int) -> Tiler:
        """Jobs read the buffer at `at`; their results go to vector 0, which `_job` changes."""
        layer = self._layer
        names = [layer.result.name, *([layer.stage.addend.tensor.name] if layer.stage.addend else [])]
        places = {**dict.fromkeys(names, 0), layer.source.name: at}
        memory = Memory(self._profile)
        return Tiler(self._profile, places, memory, self._profile.accumulator_depth, {layer.source.name: self._pitch})

    def _job(self, job: Job, first_block: int, offset: int, inputs: tuple[Transfer, ...]) -> None:
        """Give the job a slot: its residual comes into it, its result goes out of it."""
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
            before = self._streamer.stored(local, vector.parts * vector.count)
        group = parameters.at + first_block * self._profile.lane_groups - parameters.first
        placed = replace(vector, destination=local, residual=local, part_pitch=vector.count, parameters=group)
        if not self._plan.weights_stay:
            self._weights = {}
        finish = Finish(placed, job.residual, (parameters.transfer, *before))
        task = Task(shape=job.shape, chains=(Chain(job.works),), finishes=(finish,), inputs=inputs)
        number = self._streamer.jobs.add(task, self._weights_of, self._use_weights)
        self._streamer.parameters.use(parameters.at, parameters.lines, number)
        self._streamer.store_tensor(runs, number)

    # -- what is on the chip ------------------------------------------------------------------------------------------

    def _load_rows(self, top: int, low: int, high: int) -> Iterator[Transfer]:
        """Bring rows in: one transfer, or one per row where those between are left out."""
        source, slab = self._layer.source, self._slab
        together = high - low if self._row_step == 1 else 1
        for row in range(low, high, max(together, 1)):
            runs = TensorRuns(
                tensor=source.name,
                offset=(slab.first_input * self._stored_rows + row * self._row_step) * source.width,
                plane=self._stored_rows * source.width,
                count=together * source.width,
                runs=slab.inputs,
                local=(row - top) * source.width,
                local_pitch=self._pitch,
            )
            yield self._streamer.load_tensor(runs, Stream.INPUTS)

    def _begin_group(self, group: Sequence[Block]) -> None:
        """Weights that stay take one room together, so that none of them displaces another."""
        self._weights = {}
        stays = self._plan.weights_stay
        pieces = [_loads([block]) for block in group] if not stays else [_loads(group)]
        limit = min(CHUNK_ROWS, self._profile.weight_rows // 4)
        self._chunks = [chunk for loads in pieces for chunk in _chunks(loads, limit)]
        rows = sum(map(block_rows, group))
        self._room = self._streamer.weights.take(rows) if stays and rows else 0

    def _weights_of(self, load: isa.LoadW) -> Resident:
        """Return the chunk that the rows are in; bring it in when it is not there."""
        first, rows = self._chunks[bisect_right(self._chunks, (load.address, self._profile.weight_rows)) - 1]
        if first not in self._weights:
            streamer = self._streamer
            at = self._room + first - self._chunks[0][0] if self._plan.weights_stay else streamer.weights.take(rows)
            self._weights[first] = streamer.load_weights(self._weights_at, first, rows, at)
        return self._weights[first]

    def _use_weights(self, chunk: Resident, pass_number: int) -> None:
        self._streamer.weights.use(chunk.at, chunk.lines, pass_number)

    def _parameters_of(self, first_block: int, parts: int) -> Resident:
        """Return the chunk with the parameters of some blocks; what it displaces must come again when it is needed."""
        lane_groups, ring = self._profile.lane_groups, self._streamer.parameters
        first, groups = first_block * lane_groups, parts * lane_groups
        for chunk in self._parameters:
            if chunk.first <= first and first + groups <= chunk.first + chunk.lines:
                return chunk
        last = (self._slab.blocks[-1].first + self._slab.blocks[-1].count - 1) // self._profile.columns + 1
        wanted = min(max(groups, ring.lines // 8), max(groups, last * lane_groups - first))
        new = self._streamer.load_parameters(self._parameters_at, first, wanted)
        kept = [chunk for chunk in self._parameters if chunk.at + chunk.lines <= new.at or new.at + new.lines <= chunk.at]
        self._parameters = [*kept, new]
        return new


def _loads(blocks: Sequence[Block]) -> list[isa.LoadW]:
    return [tap.load for block in blocks for tap in block.taps if tap.load is not None]


def _chunks(loads: Sequence[isa.LoadW], limit: int) -> Iterator[tuple[int, int]]:
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
