"""Lower a quantized ONNX graph to NPU layers, and assign every operator to the NPU or the host.

One pass over the nodes in order records the int8 tensor of each float name. A computing node is lowered together with the Relu or
Clip and the QuantizeLinear after it. An unsupported node, and every node that depends on it, stays on the host and is reported
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx

from accel.npu.arithmetic import Range
from accel.npu.lowering.functions import (
    MOST_PASSES,
    OF_ONE_TENSOR,
    OF_SEVERAL_TENSORS,
    evaluate,
    prelu_lines,
    quantized,
    slopes_per_channel,
)
from accel.npu.lowering.inputs import Affine, RawInput, affine
from accel.npu.lowering.layers import Addend, Part, QuantizedTensor, Window
from accel.npu.lowering.operators import (
    average_stage,
    batch_normalization,
    convolution,
    copy_stage,
    first_channels,
    fully_connected,
    maximum_stage,
    padded,
    pooling,
    pooling_window,
    reduced_axes,
    with_border,
)
from accel.npu.lowering.qdq import QdqGraph, UnsupportedError, attribute, node_name, tensors_read, why_float
from accel.npu.lowering.tables import passes, sum_of_lines
from accel.npu.lowering.walk import NOT_ON_NPU, Finish, Lowered, Walk
from edgewright.errors import ModelError

BY_HOST = "the host applies it when it quantizes the input"
IN_HEAD = "it is part of the head, which stays on the host"
SKIPPED = ("QuantizeLinear", "DequantizeLinear")
AT_INPUTS = ("Transpose", "Mul", "Div", "Sub")
"""Operators that the host applies to graph inputs; elsewhere they are functions of one tensor, or not supported."""
ALIASES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")


def lower(
    model: onnx.ModelProto, cut: Collection[str] = (), *, columns: int = 1, on_host: Mapping[str, str] | None = None
) -> Lowered:
    """Return layers, inputs, outputs, segments and the coverage of every operator.

    Args:
        model: the quantized graph.
        cut: tensors at which the head begins; it stays on the host.
        columns: channels per vector of the NPU; the operands of a Concat must begin at a vector boundary.
        on_host: operators that stay on the host, by the name of their first output, with the reason for each.

    Raises:
        ModelError: the graph is not quantized, a weight is -128, or an accumulator could overflow.
    """
    graph = QdqGraph(model)
    if not any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        raise ModelError(f"the NPU runs quantized graphs, but this one has {why_float(model)}")
    walk = Walk(graph, cut, columns)
    for node in graph.graph.node:
        _lower_node(walk, node, on_host or {})
    walk.find_outputs()
    return walk.lowered


def _lower_node(walk: Walk, node: onnx.NodeProto, on_host: Mapping[str, str]) -> None:
    """Lower one node, or record the reason why it stays on the host."""
    enters_head = bool(walk.head_inputs.intersection(tensors_read(node)))
    if enters_head:  # the featurizer quantizes the inputs of the head
        walk.head_inputs.update(node.output)
    if node.output[0] in walk.done or walk.graph.is_constant(node.output[0]):
        return
    walk.begin(node)
    first_layer = len(walk.lowered.layers)
    lower_node = _LOWER.get(node.op_type)
    try:
        if lower_node is None:
            raise UnsupportedError(f"the NPU does not support {node.op_type}")
        if enters_head and node.op_type not in SKIPPED:
            raise UnsupportedError(IN_HEAD)
        if node.output[0] in on_host:
            raise UnsupportedError(on_host[node.output[0]])
        lower_node(walk, node)
        reason = ""
    except UnsupportedError as unsupported:
        reason = str(unsupported)
    except ModelError as error:
        raise ModelError(f"layer {node_name(node)}: {error}") from error
    walk.end(node, first_layer)
    if node.op_type not in SKIPPED or reason not in ("", NOT_ON_NPU):
        note = BY_HOST if node.output[0] in walk.applied_by_host else reason
        walk.lowered.coverage.append(walk.row(node, on_npu=not reason, reason=note))


def _quantize(walk: Walk, node: onnx.NodeProto) -> None:
    name = node.input[0]
    scale, zero_point = walk.graph.scale(node).per_tensor()
    if name in walk.reals:
        source = walk.source(name)
        tensor = source
        if (source.scale, source.zero_point) != (scale, zero_point):
            tensor = replace(source, name=node.output[0], scale=scale, zero_point=zero_point)
            stage = copy_stage(source, tensor, Range(zero_point))
            walk.lowered.layers.append(pooling(node, source, tensor, Window(), stage))
    else:
        tensor = _input(walk, name, scale, zero_point)
    walk.integers[node.output[0]] = tensor


def _input(walk: Walk, name: str, scale: float, zero_point: int) -> QuantizedTensor:
    """Return the input of a segment that the host quantizes: an input of the graph, or a float tensor that the host computes.

    The host computes steps on an input of the graph before it quantizes the result, if it cannot do both at once, or if the input
    is quantized in another layout too.
    """
    walk.levels.current = walk.levels.of.get(name, -1) + 1
    walk.graph.check_batch(name)
    plain = walk.tensor(name, scale, zero_point)
    steps = walk.raw_inputs.get(name)
    at_once = [steps] if steps is not None and steps.is_by_channel(flat=plain.flat) else []
    for raw in [*at_once, RawInput(name)]:
        tensor = replace(
            plain,
            name=raw.name,
            channels_last=raw.channels_last,
            gain=raw.gain,
            offset=raw.offset,
            given_shape=raw.shape,
            line=plain.line and not raw.shape,
        )
        others = [other for other in walk.lowered.inputs if other.name == raw.name]
        if tensor in others:
            walk.quantized_again.add(raw.name)
            return tensor
        if not others:
            walk.quantized[raw.name] = raw
            walk.lowered.inputs.append(tensor)
            return tensor
    raise UnsupportedError("the NPU supports one scale per input, but this one is quantized with two")


def _dequantize(walk: Walk, node: onnx.NodeProto) -> None:
    if node.input[0] not in walk.integers:
        raise UnsupportedError(NOT_ON_NPU)
    walk.reals[node.output[0]] = walk.integers[node.input[0]]


def _transpose(walk: Walk, node: onnx.NodeProto) -> None:
    """Move a transpose of an input to the host."""
    name, permutation = node.input[0], list(attribute(node, "perm", []))
    if permutation not in ([0, 3, 1, 2], [0, 2, 1]):
        raise UnsupportedError(f"only inputs can be transposed, and from channels-last only, not by {permutation}")
    if name in walk.raw_inputs:
        _apply_on_host(walk, node, replace(walk.raw_inputs[name], channels_last=True))
        return
    source = walk.source(name)
    if source not in walk.lowered.inputs or source.channels_last or not walk.only_reader(name):
        raise UnsupportedError("only an input without other consumers can be transposed, by the host")
    shape = walk.graph.shape(node.output[0])
    transposed = _with_planes(source, (shape[0], shape[1] if len(shape) == 3 else 1, shape[-1]))
    _rearrange(walk, node, source, replace(transposed, channels_last=True))
    walk.quantized[source.name] = replace(walk.quantized[source.name], channels_last=True)


def _with_planes(tensor: QuantizedTensor, planes: tuple[int, int, int]) -> QuantizedTensor:
    """Return a tensor in the layout of another one, such as a vector that was flattened from planes."""
    channels, height, width = planes
    return replace(tensor, channels=channels, height=height, width=width)


def _rearrange(walk: Walk, node: onnx.NodeProto, source: QuantizedTensor, arranged: QuantizedTensor) -> None:
    """Let the host write a quantized input as `arranged`, the result of the node."""
    walk.lowered.inputs[walk.lowered.inputs.index(source)] = arranged
    walk.reals[node.output[0]] = arranged
    walk.applied_by_host.add(node.output[0])


def _scale(walk: Walk, node: onnx.NodeProto) -> None:
    """Move an affine step on an input to the host; elsewhere it is a function of one tensor."""
    try:
        step = affine(walk.graph, node)
        if step is None:
            raise UnsupportedError(f"the NPU does not support {node.op_type} of two tensors")
        _apply_on_host(walk, node, _raw(walk, step))
    except UnsupportedError:
        if not all(name in walk.reals or walk.graph.is_constant(name) for name in node.input):
            raise
        _function(walk, node)


def _raw(walk: Walk, step: Affine) -> RawInput:
    """Return an input after an affine step; if it was quantized and has no other consumers, undo the quantization."""
    if step.name in walk.raw_inputs:
        return walk.raw_inputs[step.name].after(step)
    source = walk.source(step.name)
    if source not in walk.lowered.inputs or not walk.only_reader(step.name):
        raise UnsupportedError("only an input without other consumers can be scaled or shifted, by the host")
    raw = walk.quantized[source.name].after(step)
    walk.lowered.inputs.remove(source)
    return raw


def _apply_on_host(walk: Walk, node: onnx.NodeProto, raw: RawInput) -> None:
    walk.raw_inputs[node.output[0]] = raw
    walk.done.add(node.output[0])
    walk.applied_by_host.add(node.output[0])


def _alias(walk: Walk, node: onnx.NodeProto) -> None:
    shape, raw = walk.graph.shape(node.output[0]), walk.raw_inputs.get(node.input[0])
    if raw is not None and not raw.channels_last and len(shape) in (1, 2, 3):
        _apply_on_host(walk, node, replace(raw, shape=raw.shape or walk.graph.shape(node.input[0])))
        return
    source = walk.source(node.input[0])
    if int(np.prod(shape)) != source.size or len(shape) not in (1, 2, 3):
        raise UnsupportedError(f"a reshape to {list(shape)} changes the layout")
    if shape in ((source.size,), source.planes) or (len(shape) == 2 and (shape[0], 1, shape[1]) == source.planes):
        walk.reals[node.output[0]] = replace(source, flat=len(shape) == 1, line=len(shape) == 2)
        return
    if source not in walk.lowered.inputs or source.channels_last or not walk.only_reader(node.input[0]):
        raise UnsupportedError(f"a reshape to {list(shape)} changes the layout")
    raw = replace(walk.quantized[source.name], shape=source.given_shape or walk.graph.shape(node.input[0]))
    walk.quantized[source.name] = raw
    tensor = walk.tensor(node.output[0], source.scale, source.zero_point)
    raw.check_axis(flat=tensor.flat)
    _rearrange(walk, node, source, replace(tensor, name=raw.name, gain=raw.gain, offset=raw.offset, given_shape=raw.shape))


def _function(walk: Walk, node: onnx.NodeProto) -> None:
    """Execute an operator of one tensor, and those that read its float result, as a table or, for PRelu, as lines."""
    operands = {name: walk.source(name) for name in tensors_read(node) if not walk.graph.is_constant(name)}
    slopes = slopes_per_channel(walk.graph, node, next(iter(operands.values())))
    if slopes is not None:
        source, finish = walk.source(node.input[0]), walk.finish(node)
        lines = prelu_lines(source, finish.result, slopes)
        walk.lowered.layers += sum_of_lines(node, source, finish.result, lines, finish.output)
        walk.commit(finish)
        return
    source, values = walk.functions.common(operands, node.op_type)
    nodes, reals = [node], evaluate(walk.graph, node, values)
    while walk.is_function(follower := walk.next(nodes[-1].output[0])):
        reals = evaluate(walk.graph, follower, {nodes[-1].output[0]: reals})
        nodes.append(follower)
    finish = walk.finish(nodes[-1])
    result = _with_planes(finish.result, source.planes)
    if result.size != finish.result.size:
        raise UnsupportedError(f"the NPU does not support {node.op_type} of tensors of different shapes")
    table = quantized(result, reals, finish.output)
    layers = passes(node, source, result, table)
    if len(layers) > MOST_PASSES:
        raise UnsupportedError(f"its table takes {len(layers)} passes; the NPU runs tables of up to {MOST_PASSES}")
    walk.lowered.layers += layers
    walk.functions.tables[result.name] = source, table
    walk.commit(Finish(result, finish.output, (*nodes[:-1], *finish.nodes)))


def _convolution(walk: Walk, node: onnx.NodeProto) -> None:
    source, finish = walk.source(node.input[0]), walk.finish(node)
    walk.append(convolution(walk.graph, node, source, finish.result, finish.output), finish)


def _fully_connected(walk: Walk, node: onnx.NodeProto) -> None:
    source, finish = walk.source(node.input[0]), walk.finish(node)
    walk.append(fully_connected(walk.graph, node, source, finish.result, finish.output), finish)


def _batch_normalization(walk: Walk, node: onnx.NodeProto) -> None:
    source, finish = walk.source(node.input[0]), walk.finish(node)
    walk.append(batch_normalization(walk.graph, node, source, finish.result, finish.output), finish)


def _pool(walk: Walk, node: onnx.NodeProto) -> None:
    source, finish = walk.source(node.input[0]), walk.finish(node)
    _append_pool(walk, node, source, finish, pooling_window(node, source, finish.result))


def _global_pool(walk: Walk, node: onnx.NodeProto) -> None:
    source, finish = walk.source(node.input[0]), walk.finish(node)
    axes = reduced_axes(walk.graph, node, len(walk.graph.shape(node.input[0])) + 1)
    if source.flat or axes != list(range(2, 3 if source.line else 4)) or finish.result.channels != source.channels:
        raise UnsupportedError("the NPU reduces whole planes only")
    _append_pool(walk, node, source, finish, Window(rows=source.height, columns=source.width))


def _append_pool(walk: Walk, node: onnx.NodeProto, source: QuantizedTensor, finish: Finish, window: Window) -> None:
    maximum = node.op_type in ("MaxPool", "GlobalMaxPool", "ReduceMax")
    if maximum:
        stage = maximum_stage(source, finish.result, finish.output)
    else:
        stage = average_stage(source, finish.result, window, finish.output)
    layer = pooling(node, source, finish.result, window, stage, maximum=maximum)
    bordered = with_border(layer, walk.lowered.layers[-1]) if walk.lowered.layers else None
    if bordered is not None and walk.only_reader(node.input[0]):
        pad = walk.lowered.layers.pop()
        walk.append(bordered, finish, walk.lowered.nodes[pad.result.name])
        return
    walk.append(layer, finish)


def _copy(walk: Walk, node: onnx.NodeProto) -> None:
    source, finish = walk.source(node.input[0]), walk.finish(node, with_own_limits=True)
    finish = replace(finish, result=_with_planes(finish.result, source.planes))
    stage = copy_stage(source, finish.result, finish.output)
    walk.append(pooling(node, source, finish.result, Window(), stage), finish)


def _add(walk: Walk, node: onnx.NodeProto) -> None:
    """Merge the addition into the layer that computes the later operand, if it has no other consumers; else copy and add."""
    if any(walk.graph.is_constant(name) for name in node.input):
        _scale(walk, node)
        return
    tensors, finish = [walk.source(name) for name in node.input], walk.finish(node)
    shapes = {tensor.planes for tensor in (*tensors, finish.result)}
    if len(shapes) > 1:
        raise UnsupportedError("it adds tensors of different shapes")
    layer_of = {
        (layer.result.part.whole if layer.result.part else layer.result).name: place
        for place, layer in enumerate(walk.lowered.layers)
    }
    places = [layer_of.get(tensor.name, -1) for tensor in tensors]
    late = int(places[1] > places[0])
    main, other = tensors[late], tensors[1 - late]
    addend = Addend(name=node_name(node), tensor=other, main_scale=main.scale, main_zero=main.zero_point, output=finish.output)
    layer = walk.lowered.layers[places[late]] if places[late] >= 0 else None
    is_whole = layer is not None and layer.result.part is None
    if layer is not None and is_whole and layer.stage.addend is None and walk.only_reader(node.input[late]):
        stage = replace(layer.stage, addend=addend)
        walk.lowered.layers[places[late]] = replace(layer, result=finish.result, stage=stage)
        walk.commit(finish, walk.lowered.nodes[layer.result.name])
        return
    stage = replace(copy_stage(main, main, Range(main.zero_point)), addend=addend)
    walk.append(pooling(node, main, finish.result, Window(), stage), finish)


def _pad(walk: Walk, node: onnx.NodeProto) -> None:
    """Copy to a larger plane; reads outside of the smaller plane return the padding value."""
    source, finish = walk.source(node.input[0]), walk.finish(node)
    window, border = padded(walk.graph, node, source)
    stage = copy_stage(source, finish.result, finish.output)
    layer = pooling(node, source, finish.result, window, stage, maximum=True)
    walk.append(replace(layer, border=border), finish)


def _concat(walk: Walk, node: onnx.NodeProto) -> None:
    """Copy each tensor to its channels of the result."""
    sources, finish = [walk.source(name) for name in node.input], walk.finish(node)
    whole = finish.result
    for number, (source, first) in enumerate(zip(sources, first_channels(node, sources, whole, walk.columns), strict=True)):
        part = replace(whole, name=f"{whole.name}[{number}]", channels=source.channels, part=Part(whole, first))
        stage = copy_stage(source, part, finish.output)
        layer = pooling(node, source, part, Window(), stage)
        walk.lowered.layers.append(replace(layer, name=f"{layer.name}[{number}]"))
    walk.commit(finish)


_LOWER: dict[str, Callable[[Walk, onnx.NodeProto], None]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Transpose": _transpose,
    **dict.fromkeys(OF_SEVERAL_TENSORS, _scale),
    **dict.fromkeys(OF_ONE_TENSOR, _function),
    **dict.fromkeys(ALIASES, _alias),
    "Conv": _convolution,
    "BatchNormalization": _batch_normalization,
    "Gemm": _fully_connected,
    "MatMul": _fully_connected,
    "Add": _add,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _global_pool,
    "ReduceMax": _global_pool,
    "Pad": _pad,
    "Concat": _concat,
    "Relu": _copy,
    "Clip": _copy,
}
OPERATORS = frozenset(_LOWER).difference(SKIPPED, AT_INPUTS, OF_SEVERAL_TENSORS)
"""Operators that the NPU supports anywhere in a graph, depending on their attributes."""
