"""Stride hoisting: if all consumers of a tensor read only every second pixel, move the stride to its producer.

ResNet in Keras starts a stage with two 1x1 convolutions at stride 2. They read one pixel in four, but the addition before them
and the two convolutions before that compute all four. Hoisting the stride saves a tenth of ResNet-50's multiplications, and every
remaining pixel is the same:

    1x1 at stride 2   becomes 1x1 at stride 1 on a smaller tensor
    Relu, Clip, Add   run on the smaller tensor
    Conv, pooling     take over the stride; their input keeps its size
    other operators   are read through a pooling of one pixel, which selects

It also prevents OpenVINO's own version of this step, which runs between the quantizers and leaves such convolutions in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper

_UNARY = {"Relu", "LeakyRelu", "Clip"}
_WINDOWED = {"Conv", "MaxPool", "AveragePool"}
_RANK = 4

Strides = tuple[int, int]


def hoist_strides(model: onnx.ModelProto) -> int:
    """Hoist strides in `model`, in place, wherever that saves multiplications; return the number of places."""
    hoisted, graph = 0, _Graph(model.graph)
    for name in [output for node in reversed(model.graph.node) for output in node.output]:
        strides = graph.strides_of_all_consumers(name)
        if strides is not None and graph.saves_work(name):
            for consumer in graph.consumers[name]:
                _set_strides(consumer, (1, 1))
            graph.narrow(name, strides)
            hoisted, graph = hoisted + 1, _Graph(model.graph)
    if hoisted:
        del model.graph.value_info[:]
    return hoisted


@dataclass(slots=True)
class _Graph:
    """The producer and the consumers of each tensor of a graph."""

    proto: onnx.GraphProto
    producer: dict[str, onnx.NodeProto] = field(init=False)
    consumers: dict[str, list[onnx.NodeProto]] = field(init=False)
    constants: set[str] = field(init=False)
    outputs: set[str] = field(init=False)
    ranks: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.producer = {name: node for node in self.proto.node for name in node.output}
        self.consumers = {}
        for node in self.proto.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.constants = {tensor.name for tensor in self.proto.initializer}
        self.outputs = {value.name for value in self.proto.output}
        values: Iterable[onnx.ValueInfoProto] = (*self.proto.value_info, *self.proto.input, *self.proto.output)
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}

    def strides_of_all_consumers(self, name: str) -> Strides | None:
        """Return the strides at which all consumers read single pixels of a tensor; None if they differ."""
        consumers = self.consumers.get(name, [])
        all_strides = {_selected(node) if node.input[0] == name else None for node in consumers}
        strides = all_strides.pop() if len(all_strides) == 1 else None
        return strides if strides != (1, 1) and name not in self.outputs else None

    def saves_work(self, name: str) -> bool:
        """Return True if a smaller tensor would make a convolution smaller."""
        node = self.producer.get(name)
        if node is None or not self._can_be_narrow(node):
            return False
        if node.op_type in _WINDOWED:
            return node.op_type == "Conv"
        return any(self.saves_work(source) for source in self._sources(node) if self._has_one_consumer(source))

    def narrow(self, name: str, strides: Strides) -> None:
        """Make the producer of a tensor compute only the pixels at `strides`."""
        node = self.producer[name]
        if node.op_type in _WINDOWED:
            rows, columns = _strides(node)
            _set_strides(node, (rows * strides[0], columns * strides[1]))
            return
        for place, source in enumerate(self._sources(node)):
            producer = self.producer.get(source)
            if producer is not None and self._has_one_consumer(source) and self._can_be_narrow(producer):
                self.narrow(source, strides)
            else:
                node.input[place] = self._selected(source, strides)

    def _can_be_narrow(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _WINDOWED:
            rounds_up = any(attribute.name == "ceil_mode" and attribute.i for attribute in node.attribute)
            return len(node.output) == 1 and _explicit_padding(node) and not rounds_up
        if node.op_type == "Add":
            return all(name not in self.constants and self.ranks.get(name) == _RANK for name in node.input)
        return node.op_type in _UNARY and self.ranks.get(node.input[0]) == _RANK

    def _sources(self, node: onnx.NodeProto) -> Sequence[str]:
        return tuple(node.input) if node.op_type == "Add" else tuple(node.input[:1])

    def _has_one_consumer(self, name: str) -> bool:
        return len(self.consumers.get(name, [])) == 1 and name not in self.outputs

    def _selected(self, name: str, strides: Strides) -> str:
        """Return the name of a tensor with the pixels of another at `strides`."""
        selected = f"{name}/every_{strides[0]}x{strides[1]}"
        if selected not in self.producer:
            node = helper.make_node("MaxPool", [name], [selected], name=selected, kernel_shape=[1, 1], strides=strides)
            after = next((place for place, other in enumerate(self.proto.node, start=1) if name in other.output), 0)
            self.proto.node.insert(after, node)
            self.producer[selected] = node
        return selected


def _selected(node: onnx.NodeProto) -> Strides | None:
    """Return the strides of a 1x1 convolution without padding; None for any other node."""
    pads = _integers(node, "pads", (0, 0, 0, 0))
    plain = node.op_type == "Conv" and _explicit_padding(node) and not any(pads)
    return _strides(node) if plain and _integers(node, "kernel_shape", ()) == (1, 1) else None


def _explicit_padding(node: onnx.NodeProto) -> bool:
    return all(attribute.s in (b"", b"NOTSET") for attribute in node.attribute if attribute.name == "auto_pad")


def _strides(node: onnx.NodeProto) -> Strides:
    rows, columns = _integers(node, "strides", (1, 1))
    return rows, columns


def _set_strides(node: onnx.NodeProto, strides: Strides) -> None:
    others = [attribute for attribute in node.attribute if attribute.name != "strides"]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute("strides", strides)])


def _integers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == name), default)
