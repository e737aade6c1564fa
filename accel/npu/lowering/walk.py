"""State of the pass over a graph, and the steps that the lowering of several operators shares."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from accel.npu.arithmetic import Range
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.lowering.functions import OF_ONE_TENSOR, OF_SEVERAL_TENSORS, Functions
from accel.npu.lowering.inputs import RawInput
from accel.npu.lowering.layers import Layer, QuantizedTensor
from accel.npu.lowering.operators import clamp_limits
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError, node_name, tensors_read
from accel.npu.lowering.segments import Levels, Segment, level_of, needed_layers, segments_of, tensors_of, whole_of

NOT_ON_NPU = "its input is not on the NPU"


@dataclass(frozen=True, slots=True)
class Finish:
    """The quantized result of a computing node: int8 tensor, range, and the nodes lowered together."""

    result: QuantizedTensor
    output: Range
    nodes: tuple[onnx.NodeProto, ...]


@dataclass(slots=True)
class Lowered:
    """The lowered graph and its coverage."""

    inputs: list[QuantizedTensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    outputs: dict[str, QuantizedTensor] = field(default_factory=dict)
    """By the name of the float tensor that the host reads."""
    coverage: list[CoverageRow] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    """The layers between operators of the host, in order."""
    from_host: bool = False
    """An input is computed by the host, not given by the user."""
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a layer's result: the outputs of the operators that the layer computes."""

    def apart(self) -> list[Lowered]:
        """Return each segment as a graph of its own."""
        return [
            replace(
                self,
                inputs=[tensor for tensor in self.inputs if tensor.name in segment.inputs],
                layers=[layer for layer in self.layers if whole_of(layer.result).name in segment.layers],
                outputs={name: self.outputs[name] for name in segment.outputs},
                segments=[segment],
            )
            for segment in self.segments
        ]


class Walk:
    """State of the pass over the graph."""

    def __init__(self, graph: QdqGraph, cut: Collection[str], columns: int) -> None:
        self.graph = graph
        self.columns = columns
        self.head_inputs = set(cut)  # float and int8 names of tensors that enter the head
        self.lowered = Lowered()
        self.integers: dict[str, QuantizedTensor] = {}  # output of QuantizeLinear -> tensor
        self.reals: dict[str, QuantizedTensor] = {}  # output of DequantizeLinear -> tensor
        self.applied_by_host: set[str] = set()  # outputs of nodes that the host applies to an input
        self.done: set[str] = set()  # outputs of nodes that were lowered with an earlier one
        self.raw_inputs = {name: RawInput(name) for name in graph.inputs()}  # float tensor -> input that it is computed from
        self.quantized: dict[str, RawInput] = {}  # name of a quantized input -> input
        self.quantized_again: set[str] = set()  # names of inputs with several quantizers
        self.functions = Functions()
        self.levels = Levels()

    def begin(self, node: onnx.NodeProto) -> None:
        """Enter the segment in which the NPU computes a node: the last one of its operands."""
        operands = [name for name in tensors_read(node) if name in self.reals or name in self.integers]
        self.levels.current = max(0, self.levels.latest(operands))

    def end(self, node: onnx.NodeProto, first_layer: int) -> None:
        """Record the segment of a node's results, and of the layers from `first_layer` on that it added."""
        on_npu = any(name in self.reals or name in self.integers for name in node.output)
        if on_npu or node.output[0] in self.done:
            level = self.levels.current if on_npu else -1  # the host computes the steps on an input
        else:
            level = max((self._host_level(name) for name in tensors_read(node)), default=-1)
        for name in node.output:
            self.levels.of.setdefault(name, level)
        for layer in self.lowered.layers[first_layer:]:
            self.levels.of.setdefault(whole_of(layer.result).name, self.levels.current)
            self.lowered.nodes.setdefault(whole_of(layer.result).name, (node.output[0],))

    def _host_level(self, name: str) -> int:
        """Return the last segment that the host needs for a tensor; it has what it quantizes itself."""
        level = self.levels.of.get(name, -1)
        return level - 1 if name in self.reals and self.reals[name].name in self.quantized else level

    def find_outputs(self) -> None:
        """Collect the float tensors that leave the NPU and the segments; drop layers and inputs that nothing reads."""
        lowered, levels = self.lowered, self.levels
        layers = sorted(lowered.layers, key=lambda layer: level_of(layer, levels))
        computed = {whole_of(layer.result).name for layer in layers}
        on_host = {name for node in self.graph.graph.node for name in tensors_read(node) if self.is_on_host(node)}
        by_host = [name for name in self.reals if name in self.graph.outputs or name in on_host]
        through_host = {name: self.reals[name].name for name in levels.through_host}
        lowered.layers = needed_layers(layers, [self.reals[name].name for name in by_host], through_host)
        read = {tensor.name for layer in lowered.layers for tensor in tensors_of(layer)}
        names = [name for name in self.reals if name in by_host or (name in through_host and name in read)]
        lowered.outputs = {name: self.reals[name] for name in names if self.reals[name].name in computed}
        lowered.inputs = [tensor for tensor in (*lowered.inputs, *levels.through_host.values()) if tensor.name in read]
        lowered.segments = segments_of(lowered.layers, lowered.outputs, [tensor.name for tensor in lowered.inputs], levels)
        lowered.from_host = not {tensor.name for tensor in lowered.inputs} <= set(self.graph.inputs())
        numbers: dict[int | None, int] = {}
        numbers |= {levels.of[segment.layers[0]]: number for number, segment in enumerate(lowered.segments, 1)}
        lowered.coverage = [replace(row, segment=numbers.get(row.segment)) for row in lowered.coverage]

    def is_on_host(self, node: onnx.NodeProto) -> bool:
        """Return true if no layer computes the output of a node."""
        is_lowered = node.output[0] in self.reals or node.output[0] in self.integers or node.output[0] in self.done
        return not is_lowered and not self.graph.is_constant(node.output[0])

    def only_reader(self, real: str) -> bool:
        """Return true if a dequantized tensor has one reader and is no output."""
        dequantize = self.graph.producers[real]
        is_shared = self.reals[real].name in self.quantized_again or real in self.graph.outputs
        if dequantize.op_type != "DequantizeLinear" or is_shared:
            return False
        return len(self.graph.consumers(real)) == 1 and len(self.graph.consumers(dequantize.input[0])) == 1

    def source(self, name: str) -> QuantizedTensor:
        """Return the int8 tensor of a float name; raise `UnsupportedError` if it is not on the NPU."""
        if name not in self.reals:
            raise UnsupportedError(NOT_ON_NPU)
        is_input = self.reals[name].name in self.quantized
        return self.reals[name] if is_input else self.levels.seen_by_current(name, self.reals[name])

    def finish(self, node: onnx.NodeProto, *, with_own_limits: bool = False) -> Finish:
        """Follow the output through Relu or Clip to its QuantizeLinear."""
        limits = clamp_limits(self.graph, node) if with_own_limits else (-np.inf, np.inf)
        nodes = [node]
        follower = self.next(node.output[0])
        while follower.op_type in ("Relu", "Clip"):
            low, high = clamp_limits(self.graph, follower)
            limits = (min(max(limits[0], low), high), max(min(limits[1], high), low))
            nodes.append(follower)
            follower = self.next(follower.output[0])
        if follower.op_type != "QuantizeLinear":
            raise UnsupportedError(f"its output goes to {follower.op_type} without being quantized")
        scale, zero_point = self.graph.scale(follower).per_tensor()
        result = self.tensor(follower.input[0], scale, zero_point, named=follower.output[0])
        low, high = (int(np.clip(np.rint(limit / scale) + zero_point, -128, 127)) for limit in limits)
        return Finish(result, Range(zero_point, low, high), (*nodes, follower))

    def is_function(self, node: onnx.NodeProto) -> bool:
        """Return true if a node is a function of one tensor whose other operands are constants."""
        varying = [name for name in node.input if name and not self.graph.is_constant(name)]
        return node.op_type in (*OF_ONE_TENSOR, *OF_SEVERAL_TENSORS, "Add") and len(varying) == 1

    def append(self, layer: Layer, finish: Finish, merged: Sequence[str] = ()) -> None:
        """Append a layer and record its result; see `commit`."""
        self.lowered.layers.append(layer)
        self.commit(finish, merged)

    def commit(self, finish: Finish, merged: Sequence[str] = ()) -> None:
        """Record the result, and mark the nodes that were lowered together as done; `merged` are those of an earlier layer."""
        self.integers[finish.nodes[-1].output[0]] = finish.result
        self.levels.of[finish.result.name] = self.levels.current
        names = tuple(node.output[0] for node in finish.nodes)
        self.done.update(names)
        self.levels.of.update(dict.fromkeys(names, self.levels.current))
        self.lowered.nodes[finish.result.name] = (*merged, *names[:-1])
        for node in finish.nodes[1:-1]:
            self.lowered.coverage.append(self.row(node, on_npu=True))

    def row(self, node: onnx.NodeProto, *, on_npu: bool, reason: str = "") -> CoverageRow:
        """Return the row of the coverage report of a node."""
        segment = self.levels.current if on_npu else None
        return CoverageRow(layer=node_name(node), operator=node.op_type, on_npu=on_npu, reason=reason, segment=segment)

    def next(self, name: str) -> onnx.NodeProto:
        """Return the only reader of a float tensor; raise `UnsupportedError` if there is another one."""
        consumers = self.graph.consumers(name)
        if name in self.graph.outputs:
            raise UnsupportedError("its output leaves the graph without being quantized")
        if len(consumers) != 1:
            raise UnsupportedError("its float output is used more than once before it is quantized")
        return consumers[0]

    def tensor(self, name: str, scale: float, zero_point: int, *, named: str | None = None) -> QuantizedTensor:
        """Return an int8 tensor of the shape of `name`; raise `UnsupportedError` if the NPU does not support the shape."""
        shape = self.graph.shape(name)
        if len(shape) not in (1, 2, 3):
            raise UnsupportedError(
                f"the NPU supports images [channels, height, width], sequences [channels, length] and vectors, not {list(shape)}"
            )
        channels, height, width = (shape[0], 1, shape[1]) if len(shape) == 2 else (*shape, 1, 1)[:3]
        return QuantizedTensor(
            name=named or name,
            channels=channels,
            height=height,
            width=width,
            scale=scale,
            zero_point=zero_point,
            flat=len(shape) == 1,
            line=len(shape) == 2,
        )
