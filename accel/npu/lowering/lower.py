"""Lower a quantized ONNX graph to NPU layers, and assign every operator to the NPU or the host.

One pass over the nodes in order records the int8 tensor of each float name. A computing node is lowered together with the Relu or
Clip and the QuantizeLinear after it. An unsupported node, and every node that depends on it, stays on the host and is reported
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from accel.npu.arithmetic import Range
from accel.npu.lowering.coverage import CoverageRow
from accel.npu.lowering.inputs import RawInput, affine
from accel.npu.lowering.layers import Addend, Layer, Part, QuantizedTensor, Window
from accel.npu.lowering.operators import (
    average_stage,
    batch_normalization,
    clamp_limits,
    convolution,
    copy_stage,
    first_channels,
    fully_connected,
    maximum_stage,
    padded,
    pooling,
    pooling_window,
    with_border,
)
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError, attribute, node_name, tensors_read, why_float
from edgewright.errors import ModelError

NOT_ON_NPU = "its input is not on the NPU"
BY_HOST = "the host applies it when it quantizes the input"
IN_HEAD = "it is part of the head, which stays on the host"
SKIPPED = ("QuantizeLinear", "DequantizeLinear")
AT_INPUTS = ("Transpose", "Mul", "Div", "Sub")
"""Operators that the host applies to graph inputs; elsewhere they are not supported."""
ALIASES = ("Flatten", "Reshape", "Squeeze", "Identity", "Dropout")


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


def lower(model: onnx.ModelProto, cut: Collection[str] = (), *, columns: int = 1) -> Lowered:
    """Return layers, inputs, outputs and the coverage of every operator.

    Args:
        model: the quantized graph.
        cut: tensors at which the head begins; it stays on the host.
        columns: channels per vector of the NPU; the operands of a Concat must begin at a vector boundary.

    Raises:
        ModelError: the graph is not quantized, a weight is -128, or an accumulator could overflow.
    """
    graph = QdqGraph(model)
    if not any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        raise ModelError(f"the NPU runs quantized graphs, but this one has {why_float(model)}")
    walk = _Walk(graph, cut, columns)
    for node in graph.graph.node:
        walk.lower_node(node)
    walk.find_outputs()
    return walk.lowered


class _Walk:
    """State of the pass over the graph."""

    def __init__(self, graph: QdqGraph, cut: Collection[str], columns: int) -> None:
        self.graph = graph
        self._columns = columns
        self._head_inputs = set(cut)  # float and int8 names of tensors that enter the head
        self.lowered = Lowered()
        self._integers: dict[str, QuantizedTensor] = {}  # output of QuantizeLinear -> tensor
        self._reals: dict[str, QuantizedTensor] = {}  # output of DequantizeLinear -> tensor
        self._applied_by_host: set[str] = set()  # outputs of nodes that the host applies to an input
        self._done: set[str] = set()  # outputs of nodes that were lowered with an earlier one
        self._raw_inputs = {name: RawInput(name) for name in graph.inputs()}  # float tensor -> input that it is computed from
        self._quantized: dict[str, RawInput] = {}  # name of a quantized input -> input

    def lower_node(self, node: onnx.NodeProto) -> None:
        """Lower one node, or record the reason why it stays on the host."""
        enters_head = bool(self._head_inputs.intersection(tensors_read(node)))
        if enters_head and node.op_type in SKIPPED:  # the featurizer quantizes the inputs of the head
            self._head_inputs.update(node.output)
        if node.output[0] in self._done or self.graph.is_constant(node.output[0]):
            return
        lower_node = _LOWER.get(node.op_type)
        try:
            if enters_head and node.op_type not in SKIPPED:
                raise UnsupportedError(IN_HEAD)
            if lower_node is None:
                raise UnsupportedError(f"the NPU does not support {node.op_type}")
            lower_node(self, node)
            reason = ""
        except UnsupportedError as unsupported:
            reason = str(unsupported)
        except ModelError as error:
            raise ModelError(f"layer {node_name(node)}: {error}") from error
        if node.op_type not in SKIPPED or reason not in ("", NOT_ON_NPU):
            note = BY_HOST if node.output[0] in self._applied_by_host else reason
            row = CoverageRow(layer=node_name(node), operator=node.op_type, on_npu=not reason, reason=note)
            self.lowered.coverage.append(row)

    # -- inputs, outputs, quantization --------------------------------------------------------------------------------

    def _quantize(self, node: onnx.NodeProto) -> None:
        name = node.input[0]
        scale, zero_point = self.graph.scale(node).per_tensor()
        if name in self._raw_inputs:
            raw = self._raw_inputs[name]
            plain = self._tensor(name, scale, zero_point)
            raw.check_axis(flat=plain.flat)
            tensor = replace(
                plain,
                name=raw.name,
                channels_last=raw.channels_last,
                gain=raw.gain,
                offset=raw.offset,
                given_shape=raw.shape,
            )
            self._quantized[raw.name] = raw
            self.lowered.inputs.append(tensor)
        else:
            source = self._source(name)
            tensor = source
            if (source.scale, source.zero_point) != (scale, zero_point):
                tensor = replace(source, name=node.output[0], scale=scale, zero_point=zero_point)
                stage = copy_stage(source, tensor, Range(zero_point))
                self.lowered.layers.append(pooling(node, source, tensor, Window(), stage))
        self._integers[node.output[0]] = tensor

    def _dequantize(self, node: onnx.NodeProto) -> None:
        if node.input[0] not in self._integers:
            raise UnsupportedError(NOT_ON_NPU)
        self._reals[node.output[0]] = self._integers[node.input[0]]

    def _transpose(self, node: onnx.NodeProto) -> None:
        """Move a transpose of an input to the host."""
        name, permutation = node.input[0], list(attribute(node, "perm", []))
        if permutation != [0, 3, 1, 2]:
            raise UnsupportedError(f"only inputs can be transposed, and from channels-last only, not by {permutation}")
        if name in self._raw_inputs:
            self._apply_on_host(node, replace(self._raw_inputs[name], channels_last=True))
            return
        source = self._source(name)
        if source not in self.lowered.inputs or source.channels_last or len(self.graph.consumers(name)) > 1:
            raise UnsupportedError("only an input without other consumers can be transposed, by the host")
        transposed = replace(source, channels=source.width, height=source.channels, width=source.height, channels_last=True)
        self.lowered.inputs[self.lowered.inputs.index(source)] = transposed
        self._quantized[source.name] = replace(self._quantized[source.name], channels_last=True)
        self._reals[node.output[0]] = transposed
        self._applied_by_host.add(node.output[0])

    def _scale(self, node: onnx.NodeProto) -> None:
        """Move an affine step on an input to the host; an input that was quantized before it is quantized after it instead."""
        step = affine(self.graph, node)
        if step is None:
            raise UnsupportedError(f"the NPU does not support {node.op_type} of two tensors")
        self._apply_on_host(node, self._raw(step.name).after(step))

    def _raw(self, name: str) -> RawInput:
        """Return an input before quantization; if it was quantized and has no other consumers, undo the quantization."""
        if name in self._raw_inputs:
            return self._raw_inputs[name]
        source = self._source(name)
        if source not in self.lowered.inputs or not self._only_reader(name):
            raise UnsupportedError("only an input without other consumers can be scaled or shifted, by the host")
        self.lowered.inputs.remove(source)
        return self._quantized[source.name]

    def _apply_on_host(self, node: onnx.NodeProto, raw: RawInput) -> None:
        self._raw_inputs[node.output[0]] = raw
        self._done.add(node.output[0])
        self._applied_by_host.add(node.output[0])

    def _alias(self, node: onnx.NodeProto) -> None:
        shape, raw = self.graph.shape(node.output[0]), self._raw_inputs.get(node.input[0])
        if raw is not None and not raw.channels_last and len(shape) == 1:
            self._apply_on_host(node, replace(raw, shape=raw.shape or self.graph.shape(node.input[0])))
            return
        source = self._source(node.input[0])
        if int(np.prod(shape)) != source.size or len(shape) not in (1, 3):
            raise UnsupportedError(f"a reshape to {list(shape)} changes the layout")
        keeps_planes = shape == (source.channels, source.height, source.width)
        if len(shape) == 3 and not keeps_planes:
            raise UnsupportedError(f"a reshape to {list(shape)} changes the layout")
        self._reals[node.output[0]] = replace(source, flat=len(shape) == 1)

    def find_outputs(self) -> None:
        """Collect the float tensors that leave the NPU: graph outputs, and inputs of nodes on the host."""
        on_host = {name for node in self.graph.graph.node for name in tensors_read(node) if self._is_on_host(node)}
        names = [name for name in self._reals if name in self.graph.outputs or name in on_host]
        self.lowered.outputs = {name: self._reals[name] for name in names}

    def _is_on_host(self, node: onnx.NodeProto) -> bool:
        is_lowered = node.output[0] in self._reals or node.output[0] in self._integers or node.output[0] in self._done
        return not is_lowered and not self.graph.is_constant(node.output[0])

    # -- computing nodes ----------------------------------------------------------------------------------------------

    def _convolution(self, node: onnx.NodeProto) -> None:
        source, finish = self._source(node.input[0]), self._finish(node)
        self._append(convolution(self.graph, node, source, finish.result, finish.output), finish)

    def _fully_connected(self, node: onnx.NodeProto) -> None:
        source, finish = self._source(node.input[0]), self._finish(node)
        self._append(fully_connected(self.graph, node, source, finish.result, finish.output), finish)

    def _batch_normalization(self, node: onnx.NodeProto) -> None:
        source, finish = self._source(node.input[0]), self._finish(node)
        self._append(batch_normalization(self.graph, node, source, finish.result, finish.output), finish)

    def _pool(self, node: onnx.NodeProto) -> None:
        source, finish = self._source(node.input[0]), self._finish(node)
        self._append_pool(node, source, finish, pooling_window(node, source, finish.result))

    def _global_pool(self, node: onnx.NodeProto) -> None:
        source, finish = self._source(node.input[0]), self._finish(node)
        if (finish.result.height, finish.result.width) != (1, 1) or finish.result.channels != source.channels:
            raise UnsupportedError("the NPU reduces whole planes only")
        self._append_pool(node, source, finish, Window(rows=source.height, columns=source.width))

    def _append_pool(self, node: onnx.NodeProto, source: QuantizedTensor, finish: Finish, window: Window) -> None:
        maximum = node.op_type in ("MaxPool", "GlobalMaxPool")
        if maximum:
            stage = maximum_stage(source, finish.result, finish.output)
        else:
            stage = average_stage(source, finish.result, window, finish.output)
        layer = pooling(node, source, finish.result, window, stage, maximum=maximum)
        bordered = with_border(layer, self.lowered.layers[-1]) if self.lowered.layers else None
        if bordered is not None and self._only_reader(node.input[0]):
            self.lowered.layers.pop()
            layer = bordered
        self._append(layer, finish)

    def _copy(self, node: onnx.NodeProto) -> None:
        source, finish = self._source(node.input[0]), self._finish(node, with_own_limits=True)
        stage = copy_stage(source, finish.result, finish.output)
        self._append(pooling(node, source, finish.result, Window(), stage), finish)

    def _add(self, node: onnx.NodeProto) -> None:
        """Merge the addition into the layer that computes the later operand, if it has no other consumers; else copy and add."""
        if any(self.graph.is_constant(name) for name in node.input):
            self._scale(node)
            return
        tensors, finish = [self._source(name) for name in node.input], self._finish(node)
        shapes = {(tensor.channels, tensor.height, tensor.width) for tensor in (*tensors, finish.result)}
        if len(shapes) > 1:
            raise UnsupportedError("it adds tensors of different shapes")
        layer_of = {
            (layer.result.part.whole if layer.result.part else layer.result).name: place
            for place, layer in enumerate(self.lowered.layers)
        }
        places = [layer_of.get(tensor.name, -1) for tensor in tensors]
        late = int(places[1] > places[0])
        main, other = tensors[late], tensors[1 - late]
        addend = Addend(
            name=node_name(node), tensor=other, main_scale=main.scale, main_zero=main.zero_point, output=finish.output
        )
        layer = self.lowered.layers[places[late]] if places[late] >= 0 else None
        is_whole = layer is not None and layer.result.part is None
        if layer is not None and is_whole and layer.stage.addend is None and self._only_reader(node.input[late]):
            stage = replace(layer.stage, addend=addend)
            self.lowered.layers[places[late]] = replace(layer, result=finish.result, stage=stage)
            self._commit(finish)
            return
        stage = replace(copy_stage(main, main, Range(main.zero_point)), addend=addend)
        self._append(pooling(node, main, finish.result, Window(), stage), finish)

    def _pad(self, node: onnx.NodeProto) -> None:
        """Copy to a larger plane; reads outside of the smaller plane return the padding value."""
        source, finish = self._source(node.input[0]), self._finish(node)
        window, border = padded(self.graph, node, source)
        stage = copy_stage(source, finish.result, finish.output)
        layer = pooling(node, source, finish.result, window, stage, maximum=True)
        self._append(replace(layer, border=border), finish)

    def _concat(self, node: onnx.NodeProto) -> None:
        """Copy each tensor to its channels of the result."""
        sources, finish = [self._source(name) for name in node.input], self._finish(node)
        whole = finish.result
        for number, (source, first) in enumerate(zip(sources, first_channels(node, sources, whole, self._columns), strict=True)):
            part = replace(whole, name=f"{whole.name}[{number}]", channels=source.channels, part=Part(whole, first))
            stage = copy_stage(source, part, finish.output)
            layer = pooling(node, source, part, Window(), stage)
            self.lowered.layers.append(replace(layer, name=f"{layer.name}[{number}]"))
        self._commit(finish)

    def _only_reader(self, real: str) -> bool:
        dequantize = self.graph.producers[real]
        if dequantize.op_type != "DequantizeLinear" or real in self.graph.outputs:
            return False
        return len(self.graph.consumers(real)) == 1 and len(self.graph.consumers(dequantize.input[0])) == 1

    # -- shared steps -------------------------------------------------------------------------------------------------

    def _source(self, name: str) -> QuantizedTensor:
        if name not in self._reals:
            raise UnsupportedError(NOT_ON_NPU)
        return self._reals[name]

    def _finish(self, node: onnx.NodeProto, *, with_own_limits: bool = False) -> Finish:
        """Follow the output through Relu or Clip to its QuantizeLinear."""
        limits = clamp_limits(self.graph, node) if with_own_limits else (-np.inf, np.inf)
        nodes = [node]
        follower = self._next(node.output[0])
        while follower.op_type in ("Relu", "Clip"):
            low, high = clamp_limits(self.graph, follower)
            limits = (min(max(limits[0], low), high), max(min(limits[1], high), low))
            nodes.append(follower)
            follower = self._next(follower.output[0])
        if follower.op_type != "QuantizeLinear":
            raise UnsupportedError(f"its output goes to {follower.op_type} without being quantized")
        scale, zero_point = self.graph.scale(follower).per_tensor()
        result = self._tensor(follower.input[0], scale, zero_point, named=follower.output[0])
        low, high = (int(np.clip(np.rint(limit / scale) + zero_point, -128, 127)) for limit in limits)
        return Finish(result, Range(zero_point, low, high), (*nodes, follower))

    def _append(self, layer: Layer, finish: Finish) -> None:
        self.lowered.layers.append(layer)
        self._commit(finish)

    def _commit(self, finish: Finish) -> None:
        """Record the result, and mark the nodes that were lowered together as done."""
        self._integers[finish.nodes[-1].output[0]] = finish.result
        self._done.update(node.output[0] for node in finish.nodes)
        for node in finish.nodes[1:-1]:
            self.lowered.coverage.append(CoverageRow(layer=node_name(node), operator=node.op_type, on_npu=True))

    def _next(self, name: str) -> onnx.NodeProto:
        consumers = self.graph.consumers(name)
        if name in self.graph.outputs:
            raise UnsupportedError("its output leaves the graph without being quantized")
        if len(consumers) != 1:
            raise UnsupportedError("its float output is used more than once before it is quantized")
        return consumers[0]

    def _tensor(self, name: str, scale: float, zero_point: int, *, named: str | None = None) -> QuantizedTensor:
        shape = self.graph.shape(name)
        if len(shape) not in (1, 3):
            raise UnsupportedError(f"the NPU supports images [channels, height, width] and vectors, not {list(shape)}")
        channels, height, width = (*shape, 1, 1)[:3]
        return QuantizedTensor(
            name=named or name,
            channels=channels,
            height=height,
            width=width,
            scale=scale,
            zero_point=zero_point,
            flat=len(shape) == 1,
        )


_LOWER: dict[str, Callable[[_Walk, onnx.NodeProto], None]] = {
    "QuantizeLinear": _Walk._quantize,
    "DequantizeLinear": _Walk._dequantize,
    "Transpose": _Walk._transpose,
    **dict.fromkeys(("Mul", "Div", "Sub"), _Walk._scale),
    **dict.fromkeys(ALIASES, _Walk._alias),
    "Conv": _Walk._convolution,
    "BatchNormalization": _Walk._batch_normalization,
    "Gemm": _Walk._fully_connected,
    "MatMul": _Walk._fully_connected,
    "Add": _Walk._add,
    "MaxPool": _Walk._pool,
    "AveragePool": _Walk._pool,
    "GlobalAveragePool": _Walk._global_pool,
    "GlobalMaxPool": _Walk._global_pool,
    "ReduceMean": _Walk._global_pool,
    "Pad": _Walk._pad,
    "Concat": _Walk._concat,
    "Relu": _Walk._copy,
    "Clip": _Walk._copy,
}
OPERATORS = frozenset(_LOWER).difference(SKIPPED, AT_INPUTS)
"""Operators that the NPU supports anywhere in a graph, depending on their attributes."""
