"""Give every tensor its place in the activation memory: tensors that are needed at the same time never share a vector."""

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
    """From the step that writes a tensor to the last one that reads it, both included."""

    size: int
    first: int
    last: int
    what: str
    """Whose it is, in a user's words: names inside a quantized graph are nobody's."""


def place_tensors(
    inputs: Sequence[QuantizedTensor],
    layers: Sequence[Layer],
    outputs: Iterable[QuantizedTensor],
    profile: NpuProfile,
    room: int | None = None,
    steps: Sequence[int] | None = None,
) -> dict[str, int]:
    """Return the first vector of every tensor, by name, in the activation memory or another one with `room` vectors.

    Layers with the same number in `steps` take turns: what one of them reads must outlive what any of them makes.

    Raises:
        DoesNotFitError: the memory is too small.
    """
    limit = profile.activation_vectors if room is None else room
    lifetimes = _lifetimes(inputs, layers, outputs, profile.columns, steps or range(len(layers)))
    places: dict[str, int] = {}
    for name, lifetime in lifetimes.items():
        neighbours = [other for other in places if _meet(lifetimes[other], lifetime)]
        taken = sorted((places[other], lifetimes[other].size) for other in neighbours)
        places[name] = _first_gap(taken, lifetime.size)
        end = places[name] + lifetime.size
        if end > limit:
            raise DoesNotFitError(
                f"the activations must fit {limit} vectors of {profile.columns} bytes on {profile.name}, "
                f"but with {lifetime.what} ({lifetime.size} vectors) {end} are needed at once; "
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
    found = {tensor.name: _Lifetime(_size(tensor, columns), -1, -1, f"input {tensor.name}") for tensor in inputs}
    for step, layer in zip(steps, layers, strict=True):
        made = layer.result.part.whole if layer.result.part else layer.result
        first = found[made.name].first if made.name in found else step
        found[made.name] = _Lifetime(_size(made, columns), first, step, f"the result of layer {layer.name}")
        found[layer.source.name].last = step
        if layer.stage.addend is not None:
            found[layer.stage.addend.tensor.name].last = step
    for tensor in outputs:
        found[tensor.name].last = len(layers)
    return found


def _size(tensor: QuantizedTensor, columns: int) -> int:
    return -(-tensor.channels // columns) * tensor.height * tensor.width


def _meet(one: _Lifetime, other: _Lifetime) -> bool:
    return one.first <= other.last and other.first <= one.last


def _first_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    at = 0
    for start, length in taken:
        if start - at >= size:
            return at
        at = max(at, start + length)
    return at
