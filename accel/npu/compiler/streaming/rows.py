"""Plan a chain of layers that runs row by row, with the intermediate tensors on the chip (depth-first execution).

A row of the last layer depends on rows of the layers before it, and finally on rows of off-chip tensors. Each tensor has a ring
buffer with the number of rows that are in use at a time; a sum may share the buffer of its addend. All weights of the chain stay
on the chip, which limits the length of a chain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from accel.npu.compiler.streaming.plan import is_reduction
from accel.npu.lowering.layers import ConvolutionLayer, Layer, QuantizedTensor
from accel.npu.model.timing import ARRAY_DEPTH, FETCH_CYCLES, VECTOR_DEPTH
from accel.npu.profile import NpuProfile

LONGEST = 5
"""Maximum number of layers in a chain: a block of a residual network and one more."""
MOST_SPARE_ROWS = 2
"""Maximum number of additional rows in a buffer, for transfers while the other rows are in use."""
JOB_OVERHEAD = ARRAY_DEPTH + 4 * FETCH_CYCLES


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the result of one layer of the chain, and the rows of its source that it needs."""

    layer: int
    row: int
    reads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowBuffer:
    """Ring buffer of a tensor's rows, each with all of its channel blocks. Addresses and sizes are vectors."""

    at: int
    rows: int
    blocks: int
    width: int

    @property
    def vectors(self) -> int:
        """Size of the buffer."""
        return self.rows * self.row_vectors

    @property
    def row_vectors(self) -> int:
        """Size of a row."""
        return self.blocks * self.width

    def address(self, row: int) -> int:
        """Return the first vector of a row."""
        return self.at + row % self.rows * self.row_vectors


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """A chain of layers, the order of its rows, and the buffers of its tensors."""

    layers: tuple[Layer, ...]
    order: tuple[Row, ...]
    buffers: Mapping[str, RowBuffer]
    stored: frozenset[str]
    """The results that are read after the chain, and are therefore stored."""
    cycles: int
    """An estimate, usually too low."""

    @property
    def tensors(self) -> dict[str, QuantizedTensor]:
        """All tensors of the chain, by name."""
        return tensors_of(self.layers)


def plan_chain(layers: Sequence[Layer], kept: Collection[str], profile: NpuProfile) -> ChainPlan | None:
    """Return the plan, or None if the layers are not a chain or do not fit; `kept` are the tensors that are read after them."""
    if not _is_chain(layers) or not _constants_fit(layers, profile):
        return None
    stored = frozenset(layer.result.name for layer in layers) & frozenset(kept)
    order = tuple(_order(layers))
    buffers = _row_buffers(layers, order, stored, profile)
    if buffers is None:
        return None
    return ChainPlan(tuple(layers), order, buffers, stored, _cycles(layers, stored, profile))


def tensors_of(layers: Sequence[Layer]) -> dict[str, QuantizedTensor]:
    """Return all tensors that the layers read or write, by name."""
    tensors = {}
    for layer in layers:
        addend = layer.stage.addend
        for tensor in (layer.source, layer.result, *([addend.tensor] if addend else [])):
            tensors[tensor.name] = tensor
    return tensors


def weight_rows(layer: Layer, profile: NpuProfile) -> int:
    """Return the number of weight rows of a layer."""
    if not isinstance(layer, ConvolutionLayer):
        return 0
    outputs, inputs, rows, columns = map(int, layer.weights.shape)
    return outputs * -(-inputs // profile.columns) * rows * columns


def parameter_groups(layer: Layer, profile: NpuProfile) -> int:
    """Return the number of parameter groups of a layer."""
    return -(-layer.result.channels // profile.columns) * profile.lane_groups


def _is_chain(layers: Sequence[Layer]) -> bool:
    """Return true if a later layer reads each result except the last, and no layer is depthwise or reduces planes."""
    sources = [{layer.source.name, layer.stage.addend.tensor.name if layer.stage.addend else ""} for layer in layers]
    if any(not any(layer.result.name in names for names in sources[number + 1 :]) for number, layer in enumerate(layers[:-1])):
        return False
    return not any((isinstance(layer, ConvolutionLayer) and layer.depthwise) or is_reduction(layer) for layer in layers)


def _constants_fit(layers: Sequence[Layer], profile: NpuProfile) -> bool:
    weights = sum(weight_rows(layer, profile) for layer in layers)
    groups = sum(parameter_groups(layer, profile) for layer in layers)
    widest = max(layer.result.width for layer in layers)
    return weights <= profile.weight_rows and groups <= profile.parameter_groups and widest <= profile.accumulator_depth


def _order(layers: Sequence[Layer]) -> Iterator[Row]:
    """Yield the rows of the last layer, each after the rows that it depends on."""
    producers = {layer.result.name: number for number, layer in enumerate(layers)}
    visited: set[tuple[int, int]] = set()

    def visit(number: int, row: int) -> Iterator[Row]:
        if (number, row) in visited:
            return
        visited.add((number, row))
        layer = layers[number]
        reads = tuple(_rows_read(layer, row))
        if layer.source.name in producers:
            for read in reads:
                yield from visit(producers[layer.source.name], read)
        if layer.stage.addend is not None and layer.stage.addend.tensor.name in producers:
            yield from visit(producers[layer.stage.addend.tensor.name], row)
        yield Row(number, row, reads)

    for number in reversed(range(len(layers))):
        for row in range(layers[number].result.height):
            yield from visit(number, row)


def _rows_read(layer: Layer, row: int) -> Iterator[int]:
    window = layer.window
    for tap in range(window.rows):
        read = row * window.row_step - window.top + tap * window.row_dilation
        if 0 <= read < layer.source.height:
            yield read


def _row_buffers(
    layers: Sequence[Layer], order: Sequence[Row], stored: Collection[str], profile: NpuProfile
) -> dict[str, RowBuffer] | None:
    """Return the buffer of every tensor, or None if they do not fit the activation memory."""
    uses, tensors = _uses(layers, order), tensors_of(layers)
    owners = _buffer_owners(layers, uses)
    rows = {owner: _rows_in_use([uses[name] for name in owners if owners[name] == owner]) for owner in owners.values()}
    row_vectors = {name: -(-tensors[name].channels // profile.columns) * tensors[name].width for name in rows}
    free = profile.activation_vectors - sum(count * row_vectors[name] for name, count in rows.items())
    if free < 0:
        return None
    results = {layer.result.name for layer in layers}
    transferred = {owners[name] for name in owners if name not in results or name in stored}
    _add_spare_rows(rows, row_vectors, transferred, free)
    buffers, at = {}, 0
    for name, count in rows.items():
        buffers[name] = RowBuffer(at, count, row_vectors[name] // tensors[name].width, tensors[name].width)
        at += buffers[name].vectors
    return {name: buffers[owner] for name, owner in owners.items()}


def _add_spare_rows(rows: dict[str, int], row_vectors: Mapping[str, int], transferred: Collection[str], free: int) -> None:
    """Add up to `MOST_SPARE_ROWS` rows, from `free` vectors, to each buffer that transfers fill or empty."""
    for name in [name for name in rows if name in transferred] * MOST_SPARE_ROWS:
        if row_vectors[name] <= free:
            free -= row_vectors[name]
            rows[name] += 1


Uses = dict[int, tuple[int, int]]
"""Per row of a tensor, the first and the last position in the order that uses it."""


def _uses(layers: Sequence[Layer], order: Sequence[Row]) -> dict[str, Uses]:
    uses: dict[str, Uses] = {name: {} for name in tensors_of(layers)}
    for place, step in enumerate(order):
        layer = layers[step.layer]
        addend = layer.stage.addend
        rows = [(layer.source.name, row) for row in step.reads] + [(layer.result.name, step.row)]
        rows += [(addend.tensor.name, step.row)] if addend else []
        for name, row in rows:
            uses[name][row] = (uses[name].get(row, (place, place))[0], place)
    return uses


def _buffer_owners(layers: Sequence[Layer], uses: Mapping[str, Uses]) -> dict[str, str]:
    """Return the tensor whose buffer each tensor uses: a sum overwrites its addend if no later step reads the addend."""
    owners = {name: name for name in uses}
    for layer in layers:
        addend = layer.stage.addend
        if addend is None:
            continue
        addend_uses, sum_uses = uses[addend.tensor.name], uses[layer.result.name]
        if all(addend_uses[row][1] <= sum_uses[row][0] for row in sum_uses) and addend.tensor.name != layer.source.name:
            owners[layer.result.name] = owners[addend.tensor.name]
    return owners


def _rows_in_use(uses: Sequence[Uses]) -> int:
    """Return the smallest ring buffer for tensors with these uses: no row overwrites another one before its last use."""
    spans: Uses = {}
    for row, (first, last) in (item for use in uses for item in use.items()):
        earliest, latest = spans.get(row, (first, last))
        spans[row] = (min(first, earliest), max(last, latest))
    count = 1
    while any(row + count in spans and spans[row + count][0] <= last for row, (_, last) in spans.items()):
        count += 1
    return count


def _cycles(layers: Sequence[Layer], stored: Collection[str], profile: NpuProfile) -> int:
    """Return an estimate of the cycles: the maximum of the array's work and the memory's transfers."""
    producers = {layer.result.name for layer in layers}
    moved = work = 0
    for tensor in tensors_of(layers).values():
        if tensor.name not in producers or tensor.name in stored:
            moved += -(-tensor.channels // profile.columns) * profile.columns * tensor.height * tensor.width
    for layer in layers:
        result, taps = layer.result, layer.window.rows * layer.window.columns
        inputs = -(-layer.source.channels // profile.columns) if isinstance(layer, ConvolutionLayer) else 1
        size = profile.rows if isinstance(layer, ConvolutionLayer) else profile.columns
        jobs = -(-result.channels // size) * result.height
        visits = result.width * taps * inputs
        parts = -(-min(size, result.channels) // profile.columns)
        vector = result.width * parts * profile.lane_groups + VECTOR_DEPTH
        work += jobs * (max(visits, vector) + JOB_OVERHEAD)
        moved += weight_rows(layer, profile) * profile.columns + 16 * jobs * (5 + 3 * taps)
    return max(work, moved // 2)
