"""Choose what runs on the NPU: the layers that fit it, in segments that are worth their way over the serial line.

    lower    every operator that the NPU supports, in segments between those that it lacks
    fit      layers that are too large alone stay on the host; of the others the first or the last ones run on the NPU
    prune    a segment stays on the host if that is faster, by the profile's link and host
    compile  all segments into one program

The whole program runs once for every segment: a second run costs less than uploading other instructions, and the hardware needs
no way to begin in the middle (docs/adr/0016-segments-between-host-and-npu.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from accel.npu.compiler.compile import Compiled, check_something_runs, compile_lowered
from accel.npu.compiler.place import DoesNotFitError, place_tensors
from accel.npu.lowering.layers import ConvolutionLayer, Layer
from accel.npu.lowering.lower import lower
from accel.npu.lowering.segments import tensors_of, whole_of
from accel.npu.lowering.walk import Lowered
from accel.npu.model.crossing import SegmentCost, segment_cost
from accel.npu.profile import NpuProfile

TOO_LARGE = "it does not fit {name} alone"
NO_ROOM = "{name} has no room for it beside the other layers"


@dataclass(frozen=True, slots=True)
class _Graph:
    """The quantized graph, the tensors at which the head begins, and the NPU."""

    model: onnx.ModelProto
    cut: Collection[str]
    profile: NpuProfile

    def lower(self, on_host: dict[str, str]) -> Lowered:
        """Lower the graph without the operators `on_host`."""
        return lower(self.model, self.cut, columns=self.profile.columns, on_host=on_host)


def compile_partitioned(model: onnx.ModelProto, profile: NpuProfile, cut: Collection[str] = ()) -> Compiled:
    """Compile the operators that the NPU supports, that fit it and that are worth the transfers between it and the host.

    Args:
        model: the quantized graph.
        profile: the NPU, with the speeds of its link and of the host.
        cut: tensors at which the head begins; it stays on the host.

    Raises:
        ModelError: no operator can run on the NPU.
        DoesNotFitError: not even one layer fits.
    """
    graph = _Graph(model, cut, profile)
    on_host: dict[str, str] = {}
    lowered = _pruned(graph, graph.lower(on_host), on_host)
    try:
        return compile_lowered(lowered, profile)
    except DoesNotFitError as error:
        return _compile_fitting(graph, lowered, on_host, error)


def _pruned(graph: _Graph, lowered: Lowered, on_host: dict[str, str]) -> Lowered:
    """Move the segment with the largest loss to the host, and lower again, until all that are left save time.

    The segment with the most multiplications always stays: the user asked for the NPU.
    """
    while len(lowered.segments) > 1:
        costs = costs_of(lowered, graph.profile)
        largest = max(costs, key=lambda cost: cost.macs)
        losses = [0.0 if cost is largest else _loss_ms(cost, costs, graph.profile) for cost in costs]
        worst = losses.index(max(losses))
        if losses[worst] <= 0:
            break
        reason = _reason(costs[worst], graph.profile)
        on_host.update(dict.fromkeys(_operators(lowered, lowered.segments[worst].layers), reason))
        lowered = graph.lower(on_host)
    return lowered


def costs_of(lowered: Lowered, profile: NpuProfile) -> list[SegmentCost]:
    """Return the cost of every segment, before it is compiled."""
    vectors = {tensor.name: -(-tensor.channels // profile.columns) * tensor.height * tensor.width for tensor in lowered.inputs}
    vectors |= {
        name: -(-tensor.channels // profile.columns) * tensor.height * tensor.width for name, tensor in lowered.outputs.items()
    }

    def bytes_of(names: Sequence[str]) -> int:
        return sum(vectors[name] for name in names) * profile.columns

    return [segment_cost(profile, part.macs, bytes_of(part.inputs), bytes_of(part.outputs)) for part in lowered.segments]


def _loss_ms(cost: SegmentCost, costs: Sequence[SegmentCost], profile: NpuProfile) -> float:
    """Return how much longer a segment takes on the NPU than on the host: its transfers, and one more run of the program."""
    run_ms = sum(other.macs for other in costs) / profile.macs_per_cycle / profile.clock_mhz / 1e3
    return cost.crossing_ms + run_ms - cost.host_ms


def _reason(cost: SegmentCost, profile: NpuProfile) -> str:
    transferred = cost.input_bytes + cost.output_bytes
    return (
        f"the transfer of {transferred} bytes at {profile.link_baud} baud takes {cost.crossing_ms:.1f} ms, "
        f"computing on the host {cost.host_ms:.1f} ms"
    )


def _operators(lowered: Lowered, results: Sequence[str]) -> list[str]:
    """Return the first outputs of the operators that compute the layers' results."""
    return [name for result in results for name in lowered.nodes[result]]


def _compile_fitting(graph: _Graph, lowered: Lowered, on_host: dict[str, str], error: DoesNotFitError) -> Compiled:
    """Compile the first or the last layers, as many as fit; raise `error` if none fits."""
    profile = graph.profile
    check_something_runs(lowered)
    too_large = [whole_of(layer.result).name for layer in lowered.layers if not _fits_alone(layer, profile)]
    on_host.update(dict.fromkeys(_operators(lowered, too_large), TOO_LARGE.format(name=profile.name)))
    lowered = graph.lower(on_host)
    results = list(dict.fromkeys(whole_of(layer.result).name for layer in lowered.layers))
    found = [_longest(graph, lowered, on_host, results, first=first) for first in (True, False)]
    fitting = [compiled for compiled in found if compiled is not None]
    if not fitting:
        raise error
    return max(fitting, key=lambda compiled: sum(layer.macs for layer in compiled.program.description.layers))


def _fits_alone(layer: Layer, profile: NpuProfile) -> bool:
    """Return true if the tensors and weights of a layer fit the chip, or its external memory."""
    weights = layer.weights.size if isinstance(layer, ConvolutionLayer) else 0
    on_chip = profile.weight_rows * profile.columns
    external_vectors = profile.external_words * 4 // profile.columns
    try:
        inputs = {tensor.name: tensor for tensor in tensors_of(layer)}
        place_tensors(list(inputs.values()), [layer], [whole_of(layer.result)], profile, capacity=external_vectors or None)
    except DoesNotFitError:
        return False
    return int(weights) <= (external_vectors * profile.columns or on_chip)


def _longest(graph: _Graph, lowered: Lowered, on_host: dict[str, str], results: Sequence[str], *, first: bool) -> Compiled | None:
    """Return the program with the most layers that fits, of the first or the last ones; None if none fits."""
    low, high, best = 1, len(results), None
    while low <= high:
        count = (low + high + 1) // 2
        left_out = results[count:] if first else results[: len(results) - count]
        reasons = dict.fromkeys(_operators(lowered, left_out), NO_ROOM.format(name=graph.profile.name))
        compiled = _attempt(graph, on_host | reasons)
        if compiled is None:
            high = count - 1
        else:
            low, best = count + 1, compiled
    return best


def _attempt(graph: _Graph, on_host: dict[str, str]) -> Compiled | None:
    lowered = graph.lower(on_host)
    if not lowered.segments:
        return None
    try:
        return compile_lowered(_pruned(graph, lowered, dict(on_host)), graph.profile)
    except DoesNotFitError:
        return None
