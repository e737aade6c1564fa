"""Plan a chain of layers that goes through the chip row by row: what one layer makes, the next one reads on the chip.

A row of the last layer asks for rows of the layers before it, and these for rows of what comes from outside. Each tensor has a
ring of rows on the chip, as many as are needed at a time; a sum takes the place of what was added to it. All weights of the
chain stay on the chip meanwhile, so a chain is as long as they fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from accel.npu.compiler.streaming.plan import is_reduction
from accel.npu.lowering.layers import ConvolutionLayer, Layer, QuantizedTensor
from accel.npu.model.timing import ARRAY_DEPTH, FETCH_CYCLES, VECTOR_DEPTH
from accel.npu.profile import NpuProfile

LONGEST = 5
"""Layers in a chain: a block of a residual network and one more."""
MOST_SPARE_ROWS = 2
"""Rows of a ring that transfers fill or empty while others are in use."""
JOB_OVERHEAD = ARRAY_DEPTH + 4 * FETCH_CYCLES


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the result of one layer of the chain, and the rows of its source that it needs."""

    layer: int
    row: int
    reads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowRing:
    """Rows of a tensor on the chip, all blocks of a row together. Addresses and sizes are vectors."""

    at: int
    rows: int
    blocks: int
    width: int

    @property
    def vectors(self) -> int:
        """How large it is."""
        return self.rows * self.row_vectors

    @property
    def row_vectors(self) -> int:
        """How large a row is."""
        return self.blocks * self.width

    def address(self, row: int) -> int:
        """Return where a row begins."""
        return self.at + row % self.rows * self.row_vectors


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """A chain of layers, the order of its rows, and the rings of its tensors."""

    layers: tuple[Layer, ...]
    order: tuple[Row, ...]
    rings: Mapping[str, RowRing]
    stored: frozenset[str]
    """The results that are needed behind the chain."""
    cycles: int
    """An estimate, rather too low."""

    @property
    def tensors(self) -> dict[str, QuantizedTensor]:
        """All tensors of the chain, by name."""
        return tensors_of(self.layers)


def plan_chain(layers: Sequence[Layer], kept: Collection[str], profile: NpuProfile) -> ChainPlan | None:
    """Return the plan, or None where the layers are no chain or do not fit; `kept` are the tensors needed behind the chain."""
    if not _is_chain(layers) or not _constants_fit(layers, profile):
        return None
    stored = frozenset(layer.result.name for layer in layers) & frozenset(kept)
    order = tuple(_order(layers))
    rings = _rings(layers, order, stored, profile)
    if rings is None:
        return None
    return ChainPlan(tuple(layers), order, rings, stored, _cycles(layers, stored, profile))


def tensors_of(layers: Sequence[Layer]) -> dict[str, QuantizedTensor]:
    """Return all tensors that the layers read or make."""
    found = {}
    for layer in layers:
        addend = layer.stage.addend
        for tensor in (layer.source, layer.result, *([addend.tensor] if addend else [])):
            found[tensor.name] = tensor
    return found


def weight_rows(layer: Layer, profile: NpuProfile) -> int:
    """Return how many rows of the weight memory a layer takes."""
    if not isinstance(layer, ConvolutionLayer):
        return 0
    outputs, inputs, rows, columns = map(int, layer.weights.shape)
    return outputs * -(-inputs // profile.columns) * rows * columns


def parameter_groups(layer: Layer, profile: NpuProfile) -> int:
    """Return how many groups of the parameter memory a layer takes."""
    return -(-layer.result.channels // profile.columns) * profile.lane_groups


def _is_chain(layers: Sequence[Layer]) -> bool:
    """Each result but the last one is read by a later layer; nothing depthwise, no whole planes."""
    read = [{layer.source.name, layer.stage.addend.tensor.name if layer.stage.addend else ""} for layer in layers]
    if any(not any(layer.result.name in names for names in read[number + 1 :]) for number, layer in enumerate(layers[:-1])):
        return False
    return not any((isinstance(layer, ConvolutionLayer) and layer.depthwise) or is_reduction(layer) for layer in layers)


def _constants_fit(layers: Sequence[Layer], profile: NpuProfile) -> bool:
    weights = sum(weight_rows(layer, profile) for layer in layers)
    groups = sum(parameter_groups(layer, profile) for layer in layers)
    widest = max(layer.result.width for layer in layers)
    return weights <= profile.weight_rows and groups <= profile.parameter_groups and widest <= profile.accumulator_depth


def _order(layers: Sequence[Layer]) -> Iterator[Row]:
    """Go through the rows of the last layer; before each one come the rows that it needs and that are not there yet."""
    makers = {layer.result.name: number for number, layer in enumerate(layers)}
    made: set[tuple[int, int]] = set()

    def ask(number: int, row: int) -> Iterator[Row]:
        if (number, row) in made:
            return
        made.add((number, row))
        layer = layers[number]
        reads = tuple(_rows_read(layer, row))
        if layer.source.name in makers:
            for read in reads:
                yield from ask(makers[layer.source.name], read)
        if layer.stage.addend is not None and layer.stage.addend.tensor.name in makers:
            yield from ask(makers[layer.stage.addend.tensor.name], row)
        yield Row(number, row, reads)

    for number in reversed(range(len(layers))):
        for row in range(layers[number].result.height):
            yield from ask(number, row)


def _rows_read(layer: Layer, row: int) -> Iterator[int]:
    window = layer.window
    for tap in range(window.rows):
        read = row * window.row_step - window.top + tap * window.row_dilation
        if 0 <= read < layer.source.height:
            yield read


def _rings(
    layers: Sequence[Layer], order: Sequence[Row], stored: Collection[str], profile: NpuProfile
) -> dict[str, RowRing] | None:
    """Give every tensor a ring, or the one of the tensor that is added to it; then spare rows to those that transfers use."""
    uses = _uses(layers, order)
    homes = _homes(layers, uses)
    needed: dict[str, int] = {}
    for home in dict.fromkeys(homes.values()):
        together = [uses[name] for name, at in homes.items() if at == home]
        rows = {row for use in together for row in use}
        spans = {row: _joined([use[row] for use in together if row in use]) for row in rows}
        needed[home] = _rows_at_a_time(spans)
    tensors, made = tensors_of(layers), {layer.result.name for layer in layers}
    sizes = {name: -(-tensors[name].channels // profile.columns) * tensors[name].width for name in needed}
    free = profile.activation_vectors - sum(count * sizes[name] for name, count in needed.items())
    if free < 0:
        return None
    moved = [home for home in needed if any(at == home and (name not in made or name in stored) for name, at in homes.items())]
    for home in moved * MOST_SPARE_ROWS:
        if sizes[home] <= free:
            free -= sizes[home]
            needed[home] += 1
    rings, at = {}, 0
    for home, count in needed.items():
        rings[home] = RowRing(at, count, sizes[home] // tensors[home].width, tensors[home].width)
        at += rings[home].vectors
    return {name: rings[home] for name, home in homes.items()}


Uses = dict[int, tuple[int, int]]
"""Of each row of a tensor, the first and the last place in the order at which it is used."""


def _uses(layers: Sequence[Layer], order: Sequence[Row]) -> dict[str, Uses]:
    uses: dict[str, Uses] = {name: {} for name in tensors_of(layers)}
    for place, step in enumerate(order):
        layer = layers[step.layer]
        addend = layer.stage.addend
        used = [(layer.source.name, row) for row in step.reads] + [(layer.result.name, step.row)]
        used += [(addend.tensor.name, step.row)] if addend else []
        for name, row in used:
            uses[name][row] = (uses[name].get(row, (place, place))[0], place)
    return uses


def _homes(layers: Sequence[Layer], uses: Mapping[str, Uses]) -> dict[str, str]:
    """Tell for each tensor in whose ring it lives: a sum where its addend was, if nothing needs the addend behind it."""
    homes = {name: name for name in uses}
    for layer in layers:
        addend = layer.stage.addend
        if addend is None:
            continue
        before, behind = uses[addend.tensor.name], uses[layer.result.name]
        if all(before[row][1] <= behind[row][0] for row in behind) and addend.tensor.name != layer.source.name:
            homes[layer.result.name] = homes[addend.tensor.name]
    return homes


def _joined(spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(first for first, _ in spans), max(last for _, last in spans)


def _rows_at_a_time(spans: Uses) -> int:
    """Return the smallest ring in which no row comes before the one that it displaces was used last."""
    rows = 1
    while any(row + rows in spans and spans[row + rows][0] <= last for row, (_, last) in spans.items()):
        rows += 1
    return rows


def _cycles(layers: Sequence[Layer], stored: Collection[str], profile: NpuProfile) -> int:
    """Return what the array or the memory needs at least."""
    makers = {layer.result.name for layer in layers}
    moved = work = 0
    for tensor in tensors_of(layers).values():
        if tensor.name not in makers or tensor.name in stored:
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
