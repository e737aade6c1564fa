"""Allocate every tensor in the activation memory or in external memory: tensors with overlapping lifetimes share no vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from accel.npu.lowering.layers import Layer, QuantizedTensor
from accel.npu.profile import NpuProfile
from edgewright.errors import ModelError


class DoesNotFitError(ModelError):
    """A memory of the NPU is too small for the model."""


@dataclass(slots=True)
class _Lifetime:
    """Size in vectors, and the steps from the first write to the last read of a tensor, both included."""

    size: int
    first: int
    last: int
    description: str
    """The tensor's name for error messages; users do not know the names inside a quantized graph."""


def place_tensors(
    inputs: Sequence[QuantizedTensor],
    layers: Sequence[Layer],
    outputs: Iterable[QuantizedTensor],
    profile: NpuProfile,
    *,
    capacity: int | None = None,
    steps: Sequence[int] | None = None,
    lag: int = 0,
) -> dict[str, int]:
    """Return the first vector of every tensor, by name.

    Args:
        inputs: the tensors that the host writes.
        layers: the layers in order of execution.
        outputs: the tensors that the host reads.
        profile: the NPU.
        capacity: vectors of the memory; by default those of the activation memory.
        steps: the step of each layer. Layers of one step are interleaved, so their inputs and results must not overlap.
        lag: steps for which a tensor stays in its place after its last reader, so that the next layer may begin earlier.

    Raises:
        DoesNotFitError: the memory is too small.
    """
    limit = profile.activation_vectors if capacity is None else capacity
    replaced = _replaced(layers) if steps is None else {}
    lifetimes = _lifetimes(inputs, layers, outputs, profile.columns, steps or range(len(layers)), replaced)
    places: dict[str, int] = {}
    for name, lifetime in lifetimes.items():
        live = [other for other in places if _overlap(lifetimes[other], lifetime, lag)]
        allocated = sorted((places[other], lifetimes[other].size) for other in live)
        places[name] = _first_gap(allocated, lifetime.size)
        end = places[name] + lifetime.size
        if end > limit:
            raise DoesNotFitError(
                f"the activations must fit {limit} vectors of {profile.columns} bytes on {profile.name}, "
                f"but with {lifetime.description} ({lifetime.size} vectors) {end} are needed at once; "
                "use a smaller input or a larger NPU"
            )
    places |= {name: places[first] for name, first in replaced.items()}
    for result in (layer.result for layer in layers):
        if result.part is not None:
            before = result.part.first_channel // profile.columns * result.height * result.width
            places[result.name] = places[result.part.whole.name] + before
    return places


def _lifetimes(
    inputs: Sequence[QuantizedTensor],
    layers: Sequence[Layer],
    outputs: Iterable[QuantizedTensor],
    columns: int,
    steps: Sequence[int],
    replaced: Mapping[str, str],
) -> dict[str, _Lifetime]:
    lifetimes = {tensor.name: _Lifetime(_size(tensor, columns), -1, -1, f"input {tensor.name}") for tensor in inputs}
    for step, layer in zip(steps, layers, strict=True):
        result = layer.result.part.whole if layer.result.part else layer.result
        name = replaced.get(result.name, result.name)
        first = lifetimes[name].first if name in lifetimes else step
        lifetimes[name] = _Lifetime(_size(result, columns), first, step, f"the result of layer {layer.name}")
        for read in (layer.source, *([layer.stage.addend.tensor] if layer.stage.addend else [])):
            lifetimes[replaced.get(read.name, read.name)].last = step
    for tensor in outputs:
        lifetimes[replaced.get(tensor.name, tensor.name)].last = len(layers)
    return lifetimes


def _replaced(layers: Sequence[Layer]) -> dict[str, str]:
    """Return, for each result that is written over its addend, the first tensor in that place."""
    first: dict[str, str] = {}
    for layer in layers:
        if layer.stage.addend is not None and layer.stage.addend.is_replaced:
            addend = layer.stage.addend.tensor.name
            first[layer.result.name] = first.get(addend, addend)
    return first


def _size(tensor: QuantizedTensor, columns: int) -> int:
    return -(-tensor.channels // columns) * tensor.height * tensor.width


def _overlap(one: _Lifetime, other: _Lifetime, lag: int) -> bool:
    return one.first <= other.last + lag and other.first <= one.last + lag


def _first_gap(allocated: Sequence[tuple[int, int]], size: int) -> int:
    """Return the first free address for `size` vectors between `allocated` (start, length), which are sorted."""
    at = 0
    for start, length in allocated:
        if start - at >= size:
            return at
        at = max(at, start + length)
    return at
