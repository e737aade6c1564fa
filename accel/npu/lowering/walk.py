"""State of the pass over a graph, and the steps that the lowering of several operators shares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx

from accel.npu.arithmetic import Range
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.lowering.functions import OF_ONE_TENSOR, OF_SEVERAL_TENSORS, Functions, without_unread
from accel.npu.lowering.inputs import RawInput
from accel.npu.lowering.layers import Layer, QuantizedTensor
from accel.npu.lowering.operators import clamp_limits
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError, node_name, tensors_read

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
        self.functions = Functions()

    def find_outputs(self) -> None:
        """Collect the float tensors that leave the NPU (graph outputs, and inputs of nodes on the host); drop unread layers."""
        on_host = {name for node in self.graph.graph.node for name in tensors_read(node) if self.is_on_host(node)}
        names = [name for name in self.reals if name in self.graph.outputs or name in on_host]
        self.lowered.outputs = {name: self.reals[name] for name in names}
        self.lowered.layers = without_unread(self.lowered.layers, list(self.lowered.outputs.values()))

    def is_on_host(self, node: onnx.NodeProto) -> bool:
        """Return true if no layer computes the output of a node."""
        is_lowered = node.output[0] in self.reals or node.output[0] in self.integers or node.output[0] in self.done
        return not is_lowered and not self.graph.is_constant(node.output[0])

    def only_reader(self, real: str) -> bool:
        """Return true if a dequantized tensor has one reader and is no output."""
        dequantize = self.graph.producers[real]
        if dequantize.op_type != "DequantizeLinear" or real in self.graph.outputs:
            return False
        return len(self.graph.consumers(real)) == 1 and len(self.graph.consumers(dequantize.input[0])) == 1

    def source(self, name: str) -> QuantizedTensor:
        """Return the int8 tensor of a float name; raise `UnsupportedError` if it is not on the NPU."""
        if name not in self.reals:
            raise UnsupportedError(NOT_ON_NPU)
        return self.reals[name]

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

    def append(self, layer: Layer, finish: Finish) -> None:
        """Append a layer and record its result."""
        self.lowered.layers.append(layer)
        self.commit(finish)

    def commit(self, finish: Finish) -> None:
        """Record the result, and mark the nodes that were lowered together as done."""
        self.integers[finish.nodes[-1].output[0]] = finish.result
        self.done.update(node.output[0] for node in finish.nodes)
        for node in finish.nodes[1:-1]:
            self.lowered.coverage.append(CoverageRow(layer=node_name(node), operator=node.op_type, on_npu=True))

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
