"""Extract the parts of a graph that run on the host: what the NPU's segments read and what follows them.

    host_parts  one part before each segment, if that reads tensors of the host, and the head after the last one
    host_nodes  all operators of the host, each once, in the order of the parts

A part exports float tensors that later parts read. It exports no others, such as shapes, because the sessions of the parts take
samples along the first axis; a later part computes those again. onnx.utils.Extractor does not find the tensors that the bodies of
If, Loop and Scan read, nor initializers that are graph outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx
from onnx import TensorProto, helper

from accel.npu.lowering.opset import lower_opset
from accel.npu.lowering.qdq import constant_names, real_inputs, tensors_read


class Crossing(Protocol):
    """Protocol of a segment (`Segment` or `SegmentRecord`): the tensors that it reads and those that it computes, by name."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """The host's graphs: `before` has one entry per segment, None where the host has nothing to compute."""

    before: tuple[onnx.ModelProto | None, ...]
    head: onnx.ModelProto | None
    """None if the NPU and the parts before compute all outputs of the graph."""


def host_parts(model: onnx.ModelProto, segments: Sequence[Crossing], name: str) -> HostParts:
    """Return the graphs that the host runs before, between and after the segments.

    Args:
        model: the quantized graph, including its weights.
        segments: the segments in order.
        name: the prefix of the graphs' names.
    """
    whole = _Whole(model, [result for segment in segments for result in segment.outputs])
    computed: list[str] = []
    before = []
    for number, segment in enumerate(segments):
        wanted = [tensor for tensor in segment.inputs if tensor not in whole.given and tensor not in computed]
        exported = whole.exported(wanted, computed)
        before.append(whole.part(exported, computed, f"{name}-host-{number}") if wanted else None)
        computed += [*(exported if wanted else []), *segment.outputs]
    outputs = [value.name for value in model.graph.output if value.name not in computed]
    head = whole.part(outputs, computed, f"{name}-head") if outputs else None
    return HostParts(tuple(before), head)


def host_nodes(model: onnx.ModelProto, segments: Sequence[Crossing]) -> list[list[onnx.NodeProto]]:
    """Return the operators that run before each segment and after the last one, each operator once."""
    on_npu = [result for segment in segments for result in segment.outputs]
    goals = [*(segment.inputs for segment in segments), [value.name for value in model.graph.output]]
    listed, steps = set[str](), []
    for goal in goals:
        nodes, _ = _needed(model.graph.node, goal, on_npu)
        steps.append([node for node in nodes if node.output[0] not in listed])
        listed.update(node.output[0] for node in nodes)
    return steps


class _Whole:
    """The graph with its inferred types, from which parts are cut."""

    def __init__(self, model: onnx.ModelProto, on_npu: Collection[str]) -> None:
        self._model = model
        self.graph = onnx.shape_inference.infer_shapes(model).graph
        self.given = {value.name for value in real_inputs(self.graph)}
        self._values = {value.name: value for value in (*self.graph.value_info, *self.graph.input, *self.graph.output)}
        self._first_axes = {_first_axis(value) for value in real_inputs(self.graph)}
        self._constants = constant_names(self.graph, [tensor.name for tensor in self.graph.initializer])
        self._on_npu = on_npu

    def exported(self, wanted: Sequence[str], computed: Collection[str]) -> list[str]:
        """Return `wanted`, and the tensors that are computed on the way to them and that other operators of the host read."""
        nodes, _ = _needed(self.graph.node, wanted, computed)
        inside = {name for node in nodes for name in node.output}
        goals = [value.name for value in self.graph.output]
        all_on_host, _ = _needed(self.graph.node, goals, {*computed, *self._on_npu})
        outside = [node for node in all_on_host if node.output[0] not in inside]
        read = {name for node in outside for name in tensors_read(node)} | set(goals)
        more = [name for node in nodes for name in node.output if name in read and name not in wanted and self._is_batch(name)]
        return [*wanted, *more]

    def _is_batch(self, name: str) -> bool:
        """Return true if `name` is a float tensor whose first axis may count the samples."""
        kind = self._values[name].type.tensor_type if name in self._values else None
        is_float = kind is not None and kind.elem_type == TensorProto.FLOAT and len(kind.shape.dim) > 1
        if not is_float or name in self._constants or name in self._on_npu:
            return False
        first = _first_axis(self._values[name])
        return first in self._first_axes or not first.isdecimal()

    def part(self, outputs: Sequence[str], computed: Collection[str], name: str) -> onnx.ModelProto:
        """Return the graph of `outputs`; its inputs are those of `computed` and of the graph that it reads, at least one."""
        graph, model = self.graph, self._model
        nodes, read = _needed(graph.node, outputs, computed)
        given = [tensor for tensor in (*computed, *(value.name for value in real_inputs(graph))) if tensor in read]
        given = given or [real_inputs(graph)[0].name]  # a session needs an input with a batch axis
        produced = {result for node in nodes for result in node.output}
        part = helper.make_graph(
            nodes,
            name,
            [self._value(tensor) for tensor in given],
            [self._value(tensor) for tensor in outputs],
            initializer=[tensor for tensor in graph.initializer if tensor.name in read],
            value_info=[value for value in graph.value_info if value.name in produced and value.name not in outputs],
            sparse_initializer=[tensor for tensor in graph.sparse_initializer if tensor.values.name in read],
        )
        alone = helper.make_model(
            part, opset_imports=list(model.opset_import), ir_version=model.ir_version, functions=list(model.functions)
        )
        lower_opset(alone)  # weights in blocks, which need a newer one, are those of the NPU
        return alone

    def _value(self, name: str) -> onnx.ValueInfoProto:
        return self._values[name] if name in self._values else helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _first_axis(value: onnx.ValueInfoProto) -> str:
    """Return the size or the name of the first axis; empty if it is not known."""
    dimensions = value.type.tensor_type.shape.dim
    return str(dimensions[0].dim_value or dimensions[0].dim_param) if dimensions else ""


def _needed(
    nodes: Iterable[onnx.NodeProto], outputs: Iterable[str], computed: Collection[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that `outputs` need after the tensors `computed`, in their order, and the names of all tensors read."""
    ordered = list(nodes)
    producers = {name: index for index, node in enumerate(ordered) for name in node.output if name}
    needed, read, waiting = set[int](), set[str](), list(outputs)
    while waiting:
        name = waiting.pop()
        if name in read:
            continue
        read.add(name)
        if name not in computed and name in producers and producers[name] not in needed:
            needed.add(producers[name])
            waiting += tensors_read(ordered[producers[name]])
    return [ordered[index] for index in sorted(needed)], read
