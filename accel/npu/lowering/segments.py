"""Divide the layers of a graph into segments, between which the host computes.

A segment is the part that the NPU computes without waiting for the host. Its number counts the changes from the host to the NPU
on the way to it. A tensor that a later segment reads too, such as a skip connection around an operator of the host, passes
through the host: it is an output of one segment and an input of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from accel.npu.lowering.layers import Layer, QuantizedTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The tensors between the host and one part of the NPU, by name of the float tensor, and its multiplications per image."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int
    layers: tuple[str, ...]
    """The results of its layers; `Lowered.nodes` has the operators of each."""


@dataclass(slots=True)
class Levels:
    """The segment of each tensor by name; of a tensor on the host, the last segment before it, or -1."""

    current: int = 0
    """The segment of the operator that is being lowered."""
    of: dict[str, int] = field(default_factory=dict)
    through_host: dict[str, QuantizedTensor] = field(default_factory=dict)
    """Results of earlier segments as inputs of later ones, by the name of the float tensor."""

    def latest(self, names: Iterable[str]) -> int:
        """Return the last segment that the tensors `names` need, or -1."""
        return max((self.of.get(name, -1) for name in names), default=-1)

    def seen_by_current(self, name: str, tensor: QuantizedTensor) -> QuantizedTensor:
        """Return the float tensor `name` as the current segment reads it: its own, or one that passes through the host."""
        if self.of[name] == self.current:
            return tensor
        return self.through_host.setdefault(name, replace(tensor, name=name))


def whole_of(tensor: QuantizedTensor) -> QuantizedTensor:
    """Return the tensor that a part belongs to, or the tensor itself."""
    return tensor.part.whole if tensor.part else tensor


def tensors_of(layer: Layer) -> list[QuantizedTensor]:
    """Return the tensors that a layer reads."""
    return [layer.source, *([layer.stage.addend.tensor] if layer.stage.addend else [])]


def level_of(layer: Layer, levels: Levels) -> int:
    """Return the segment of a layer before renumbering."""
    return levels.of[whole_of(layer.result).name]


def needed_layers(layers: Sequence[Layer], read: Iterable[str], through_host: Mapping[str, str]) -> list[Layer]:
    """Return the layers without those whose results nothing reads, such as sigmoid(x) after x sigmoid(x) became one table.

    Args:
        layers: the layers, those of later segments last.
        read: the tensors that the host reads.
        through_host: for each tensor that passes through the host to a later segment, the layer's result that it has.
    """
    names, kept = set(read), list[Layer]()
    for layer in reversed(layers):
        if whole_of(layer.result).name in names:
            kept.append(layer)
            names |= {through_host.get(tensor.name, tensor.name) for tensor in tensors_of(layer)}
    return kept[::-1]


def segments_of(
    layers: Sequence[Layer], outputs: Mapping[str, QuantizedTensor], inputs: Sequence[str], levels: Levels
) -> list[Segment]:
    """Return the segments in order; every one has a layer."""
    found = []
    for level in sorted({level_of(layer, levels) for layer in layers}):
        own = [layer for layer in layers if level_of(layer, levels) == level]
        read = {tensor.name for layer in own for tensor in tensors_of(layer)}
        results = dict.fromkeys(whole_of(layer.result).name for layer in own)
        segment = Segment(
            inputs=tuple(name for name in inputs if name in read),
            outputs=tuple(name for name, tensor in outputs.items() if tensor.name in results),
            macs=sum(layer.macs for layer in own),
            layers=tuple(results),
        )
        found.append(segment)
    return found
