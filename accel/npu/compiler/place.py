"""Allocate every tensor in the activation memory or in external memory: tensors with overlapping lifetimes share no vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
) -> dict[str, int]:
    """Return the first vector of every tensor, by name.

    Args:
        inputs: the tensors that the host writes.
        layers: the layers in order of execution.
        outputs: the tensors that the host reads.
        profile: the NPU.
        capacity: vectors of the memory; by default those of the activation memory.
        steps: the step of each layer. Layers of one step are interleaved, so their inputs and results must not overlap.

    Raises:
        DoesNotFitError: the memory is too small.
    """
    limit = profile.activation_vectors if capacity is None else capacity
    lifetimes = _lifetimes(inputs, layers, outputs, profile.columns, steps or range(len(layers)))
    places: dict[str, int] = {}
    for name, lifetime in lifetimes.items():
        live = [other for other in places if _overlap(lifetimes[other], lifetime)]
        allocated = sorted((places[other], lifetimes[other].size) for other in live)
        places[name] = _first_gap(allocated, lifetime.size)
        end = places[name] + lifetime.size
        if end > limit:
            raise DoesNotFitError(
                f"the activations must fit {limit} vectors of {profile.columns} bytes on {profile.name}, "
                f"but with {lifetime.description} ({lifetime.size} vectors) {end} are needed at once; "
                "use a smaller input or a larger NPU"
            )
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
) -> dict[str, _Lifetime]:
    lifetimes = {tensor.name: _Lifetime(_size(tensor, columns), -1, -1, f"input {tensor.name}") for tensor in inputs}
    for step, layer in zip(steps, layers, strict=True):
        result = layer.result.part.whole if layer.result.part else layer.result
        first = lifetimes[result.name].first if result.name in lifetimes else step
        lifetimes[result.name] = _Lifetime(_size(result, columns), first, step, f"the result of layer {layer.name}")
        lifetimes[layer.source.name].last = step
        if layer.stage.addend is not None:
            lifetimes[layer.stage.addend.tensor.name].last = step
    for tensor in outputs:
        lifetimes[tensor.name].last = len(layers)
    return lifetimes


def _size(tensor: QuantizedTensor, columns: int) -> int:
    return -(-tensor.channels // columns) * tensor.height * tensor.width


def _overlap(one: _Lifetime, other: _Lifetime) -> bool:
    return one.first <= other.last and other.first <= one.last


def _first_gap(allocated: Sequence[tuple[int, int]], size: int) -> int:
    """Return the first free address for `size` vectors between `allocated` (start, length), which are sorted."""
    at = 0
    for start, length in allocated:
        if start - at >= size:
            return at
        at = max(at, start + length)
    return at
