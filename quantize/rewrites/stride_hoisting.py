"""Compute no value that nobody reads: where only every second pixel is used, stride where the pixels come from.

ResNet as Keras has it begins a stage with two 1x1 convolutions at stride 2. Between them they read one pixel in four, yet the
addition before them, and the two convolutions before that, compute all four. Moved up as far as it goes, the stride saves a
tenth of ResNet-50's multiplications, and every pixel that is left is the same:

    1x1 at stride 2   becomes 1x1 at stride 1 on a narrower tensor
    Relu, Clip, Add   work on the narrower tensor as well
    Conv, pooling     take the stride; what they read stays whole
    anything else     is read through a pooling of one pixel, which picks

It also keeps OpenVINO's own version of this step from running between the quantizers, which leaves such convolutions in float.
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
    """Move strides up in `model`, in place, wherever that saves a convolution work; return in how many places."""
    moved, graph = 0, _Graph(model.graph)
    for name in [output for node in reversed(model.graph.node) for output in node.output]:
        strides = graph.strides_of_all_readers(name)
        if strides is not None and graph.saves_work(name):
            for reader in graph.readers[name]:
                _set_strides(reader, (1, 1))
            graph.narrow(name, strides)
            moved, graph = moved + 1, _Graph(model.graph)
    if moved:
        del model.graph.value_info[:]
    return moved


@dataclass(slots=True)
class _Graph:
    """Who writes and who reads each tensor of a graph."""

    proto: onnx.GraphProto
    writer: dict[str, onnx.NodeProto] = field(init=False)
    readers: dict[str, list[onnx.NodeProto]] = field(init=False)
    constants: set[str] = field(init=False)
    outputs: set[str] = field(init=False)
    ranks: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.writer = {name: node for node in self.proto.node for name in node.output}
        self.readers = {}
        for node in self.proto.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants = {tensor.name for tensor in self.proto.initializer}
        self.outputs = {value.name for value in self.proto.output}
        known: Iterable[onnx.ValueInfoProto] = (*self.proto.value_info, *self.proto.input, *self.proto.output)
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}

    def strides_of_all_readers(self, name: str) -> Strides | None:
        """Return the strides at which every reader of a tensor picks single pixels of it; None where one does not."""
        readers = self.readers.get(name, [])
        found = {_picked(node) if node.input[0] == name else None for node in readers}
        strides = found.pop() if len(found) == 1 else None
        return strides if strides != (1, 1) and name not in self.outputs else None

    def saves_work(self, name: str) -> bool:
        """Tell whether a convolution would be narrowed if only part of a tensor were needed."""
        node = self.writer.get(name)
        if node is None or not self._can_be_narrow(node):
            return False
        if node.op_type in _WINDOWED:
            return node.op_type == "Conv"
        return any(self.saves_work(source) for source in self._sources(node) if self._has_one_reader(source))

    def narrow(self, name: str, strides: Strides) -> None:
        """Have the node that writes a tensor write every so many pixels of it only."""
        node = self.writer[name]
        if node.op_type in _WINDOWED:
            rows, columns = _strides(node)
            _set_strides(node, (rows * strides[0], columns * strides[1]))
            return
        for place, source in enumerate(self._sources(node)):
            writer = self.writer.get(source)
            if writer is not None and self._has_one_reader(source) and self._can_be_narrow(writer):
                self.narrow(source, strides)
            else:
                node.input[place] = self._picked(source, strides)

    def _can_be_narrow(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _WINDOWED:
            rounds_up = any(attribute.name == "ceil_mode" and attribute.i for attribute in node.attribute)
            return len(node.output) == 1 and _explicit_padding(node) and not rounds_up
        if node.op_type == "Add":
            return all(name not in self.constants and self.ranks.get(name) == _RANK for name in node.input)
        return node.op_type in _UNARY and self.ranks.get(node.input[0]) == _RANK

    def _sources(self, node: onnx.NodeProto) -> Sequence[str]:
        return tuple(node.input) if node.op_type == "Add" else tuple(node.input[:1])

    def _has_one_reader(self, name: str) -> bool:
        return len(self.readers.get(name, [])) == 1 and name not in self.outputs

    def _picked(self, name: str, strides: Strides) -> str:
        """Return a tensor with every so many pixels of another."""
        made = f"{name}/every_{strides[0]}x{strides[1]}"
        if made not in self.writer:
            node = helper.make_node("MaxPool", [name], [made], name=made, kernel_shape=[1, 1], strides=strides)
            behind = next((place for place, other in enumerate(self.proto.node, start=1) if name in other.output), 0)
            self.proto.node.insert(behind, node)
            self.writer[made] = node
        return made


def _picked(node: onnx.NodeProto) -> Strides | None:
    """Return the strides of a convolution that reads single pixels; None for any other node."""
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
