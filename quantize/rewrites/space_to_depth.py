"""Space-to-depth along the width: speed up the first convolution of an int8 graph by computing adjacent columns together.

onnxruntime gathers the input of a convolution pixel by pixel. With three channels per pixel that takes longer than the
arithmetic: on MobileNetV2 the first of 52 convolutions took an eighth of the time (onnxruntime's profiler). So four columns of
the input become the channels of one. The kernel, shifted and padded with zeros, computes the outputs of these columns as
additional channels:

    [N, H, W, 3]  is  [N, H, W/4, 12]        the same bytes, channels last
    [N, H, W/2, 64]  is  [N, H, W, 32]       the output, at stride 2

Zeros add nothing to a sum of integers, so every output has the same bits. There are twice as many multiplications, but the layer
takes half the time. The runtime's optimizer removes the transpositions that are written here, because its integer convolutions
keep channels last. Only uint8 activations with int8 weights are packed: x86 processors run this pair, where it was measured. A
network for a microcontroller, whose file would grow, stays unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

COLUMNS = 4
"""Columns of the input that become one; the fastest of 1, 2, 4 and 8 on every tested network, at stride 1 and 2."""
LARGEST_SHARE = 1 / 64
"""Largest share of the graph's weights for a packed kernel: it is a thousandth of MobileNetV2, a twelfth of ResNet-8."""
FEW_CHANNELS = 4
"""With more channels the additional arithmetic costs more than the gathering."""

_TO_CHANNELS_LAST = (0, 2, 3, 1)
_TO_CHANNELS_FIRST = (0, 3, 1, 2)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class QuantizedConvolution:
    """A convolution with inputs from DequantizeLinear nodes and QuantizeLinear as its only consumer."""

    node: ir.Node
    activations: ir.Node
    weights: ir.Node
    bias: ir.Node | ir.Value | None
    """A DequantizeLinear node of integers, or a float constant."""
    output: ir.Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The geometry of a convolution along its columns."""

    width: int
    kernel: int
    stride: int
    dilation: int
    lead: int
    """Columns of padding before the first."""
    trail: int

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.width + self.lead + self.trail - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def together(self) -> int:
        """Columns of the output that are computed together."""
        return COLUMNS // self.stride

    def column(self, output: int, place: int) -> int:
        """Return the input column, relative to its group, for column `output` of a group and column `place` of the kernel."""
        return output * self.stride - self.lead + place * self.dilation

    @property
    def first_group(self) -> int:
        """The first input group that a group of outputs needs, relative to its own."""
        return self.column(0, 0) // COLUMNS

    @property
    def last_group(self) -> int:
        """The last input group that a group of outputs needs, relative to its own."""
        return self.column(self.together - 1, self.kernel - 1) // COLUMNS

    @property
    def trailing_groups(self) -> int:
        """Groups of padding after the last; never negative, because at most a stride minus one column remains."""
        return self.out_width // self.together + self.last_group - self.width // COLUMNS

    @property
    def packs(self) -> bool:
        """True if inputs and outputs consist of complete groups."""
        return (
            COLUMNS % self.stride == 0
            and self.width % COLUMNS == 0
            and self.out_width > 0
            and self.out_width % self.together == 0
        )


def space_to_depth(graph: ir.Graph, *, largest_share: float = math.inf) -> int:
    """Pack the columns of every convolution with few channels in a quantized graph, in place; return the number of them.

    A convolution is skipped if its packed kernel would have more than `largest_share` of the weights in `graph`.
    """
    packed = 0
    weights = sum(value.const_value.size for value in graph.initializers.values() if value.const_value is not None)
    for node in list(graph):
        convolution = _quantized_convolution(node)
        geometry = None if convolution is None else _geometry(convolution)
        if convolution is None or geometry is None or not geometry.packs:
            continue
        if _packed_size(convolution, geometry) <= largest_share * weights:
            _pack(graph, convolution, geometry)
            packed += 1
    return packed


def packed_weight(weight: Array, geometry: Geometry) -> Array:
    """Return a kernel of shape [out, in, rows, columns] in shape [together x out, COLUMNS x in, rows, groups]."""
    out, channels, rows, columns = weight.shape
    groups = geometry.last_group - geometry.first_group + 1
    packed = np.zeros((geometry.together, out, COLUMNS, channels, rows, groups), weight.dtype)
    for output in range(geometry.together):
        for place in range(columns):
            group, column = divmod(geometry.column(output, place), COLUMNS)
            packed[output, :, column, :, :, group - geometry.first_group] = weight[..., place]
    return packed.reshape(geometry.together * out, COLUMNS * channels, rows, groups)


def _packed_size(convolution: QuantizedConvolution, geometry: Geometry) -> int:
    """Return the number of weights in the packed kernel."""
    out, channels, rows, _ = _array(convolution.weights).shape
    groups = geometry.last_group - geometry.first_group + 1
    return int(geometry.together * out * COLUMNS * channels * rows * groups)


def _quantized_convolution(node: ir.Node) -> QuantizedConvolution | None:
    """Return a convolution that may be packed with its quantizers; None for any other node."""
    output = _only_quantizer(node)
    if node.op_type != "Conv" or output is None:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    float_bias = bias if bias is not None and bias.is_initializer() else None
    dequantizers = _dequantizers(node.inputs[:2] if float_bias is not None else node.inputs[:3])
    if dequantizers is None:
        return None
    activations, weights, *integer_bias = dequantizers
    if not all(_is_own_constant(one) for one in (weights, *integer_bias)):
        return None
    if not _has_plain_window(node) or not _is_small_kernel(_array(weights)) or _levels_of(output) is not ir.DataType.UINT8:
        return None
    return QuantizedConvolution(
        node, activations, weights, float_bias if float_bias is not None else next(iter(integer_bias), None), output
    )


def _only_quantizer(node: ir.Node) -> ir.Node | None:
    """Return the QuantizeLinear that is the only consumer of a node's output, or None."""
    users = node.outputs[0].consumers()
    is_only = len(users) == 1 and users[0].op_type == "QuantizeLinear" and not node.outputs[0].is_graph_output()
    return users[0] if is_only else None


def _dequantizers(values: Sequence[ir.Value | None]) -> list[ir.Node] | None:
    """Return the DequantizeLinear nodes that produce `values`; None if another node produces one of them."""
    producers = [None if value is None else value.producer() for value in values]
    dequantizers = [node for node in producers if node is not None and node.op_type == "DequantizeLinear"]
    return dequantizers if len(dequantizers) == len(values) else None


def _is_own_constant(dequantizer: ir.Node) -> bool:
    """Return True if a dequantizer reads only constants and has one consumer."""
    constant = all(value.const_value is not None for value in _inputs(dequantizer))
    return constant and len(dequantizer.outputs[0].uses()) <= 1


def _has_plain_window(node: ir.Node) -> bool:
    attributes = node.attributes
    return bool(attributes.get_int("group", 1) == 1 and attributes.get_string("auto_pad", "NOTSET") == "NOTSET")


def _is_small_kernel(kernel: Array) -> bool:
    """Return True for an int8 kernel of two dimensions with few channels and more than one pixel."""
    if kernel.ndim != 4 or kernel.dtype != np.int8:
        return False
    _, channels, rows, columns = kernel.shape
    return bool(channels <= FEW_CHANNELS and rows * columns > 1)


def _levels_of(quantizer: ir.Node) -> ir.DataType | None:
    """Return the integer type of a quantizer's output: that of its zero point."""
    parameters = _inputs(quantizer)
    return parameters[2].dtype if len(parameters) > 2 else None


def _geometry(convolution: QuantizedConvolution) -> Geometry | None:
    width = _width(convolution.activations)
    if width is None:
        return None
    strides, dilations, pads = _window(convolution.node)
    return Geometry(
        width=width,
        kernel=_array(convolution.weights).shape[3],
        stride=strides[1],
        dilation=dilations[1],
        lead=pads[1],
        trail=pads[3],
    )


def _window(node: ir.Node) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return strides, dilations and pads of a two-dimensional convolution."""
    attributes = node.attributes
    return (
        attributes.get_ints("strides", (1, 1)),
        attributes.get_ints("dilations", (1, 1)),
        attributes.get_ints("pads", (0, 0, 0, 0)),
    )


def _width(node: ir.Node) -> int | None:
    """Return the size of the last axis of a quantizer's output, from its own shape or that of the float tensor before it."""
    for value in (node.outputs[0], *_inputs(node)[:1]):
        if value.shape is not None and isinstance(value.shape[-1], int):
            return value.shape[-1]
    before = _inputs(node)[0].producer()
    return _width(before) if before is not None and before.op_type in ("QuantizeLinear", "DequantizeLinear") else None


def _pack(graph: ir.Graph, convolution: QuantizedConvolution, geometry: Geometry) -> None:
    """Rewrite one convolution; its consumer reads the same tensor under the same name."""
    node, output, weight = convolution.node, convolution.node.outputs[0], _array(convolution.weights)
    narrow = (0, 0, geometry.width // COLUMNS, COLUMNS * weight.shape[1])
    wide = (0, 0, geometry.out_width, weight.shape[0])
    name, output.name = output.name, f"{node.name}/packed"
    output.shape = None

    entering = _Steps(graph=graph, before=node, like=convolution.activations, name=f"{node.name}/in")
    node.replace_input_with(0, entering.quantized(entering.regrouped(convolution.activations.outputs[0], narrow)))
    _set_constants(graph, convolution.weights, packed_weight(weight, geometry), geometry.together)
    if isinstance(convolution.bias, ir.Value):
        node.replace_input_with(
            2, _replaced(graph, convolution.bias, np.tile(_numbers(convolution.bias), geometry.together), f"{name}/bias")
        )
    elif convolution.bias is not None:
        _set_constants(graph, convolution.bias, np.tile(_array(convolution.bias), geometry.together), geometry.together)
    _set_geometry(node, geometry, rows=weight.shape[2])
    leaving = _Steps(graph=graph, before=convolution.output, like=convolution.output, name=f"{node.name}/out")
    result = leaving.regrouped(leaving.quantized(output), wide)
    result.name = name
    convolution.output.replace_input_with(0, result)


@dataclass(slots=True, kw_only=True)
class _Steps:
    """A writer of nodes in front of `before`, with the scale and zero point of the quantizer `like`."""

    graph: ir.Graph
    before: ir.Node
    like: ir.Node
    name: str
    count: int = 0

    def quantized(self, value: ir.Value) -> ir.Value:
        """Quantize and dequantize a tensor, which marks it as integers for the runtime."""
        parameters = _inputs(self.like)[1:]
        return self._step("DequantizeLinear", [self._step("QuantizeLinear", [value, *parameters]), *parameters])

    def regrouped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape a tensor with its channels last; a 0 in `shape` keeps the size."""
        last = self.quantized(self._step("Transpose", [value], perm=_TO_CHANNELS_LAST))
        target = _initializer(self.graph, f"{self.name}/shape", np.array(shape, np.int64))
        return self._step("Transpose", [self.quantized(self._step("Reshape", [last, target]))], perm=_TO_CHANNELS_FIRST)

    def _step(self, operator: str, inputs: Sequence[ir.Value], **attributes: Sequence[int]) -> ir.Value:
        self.count += 1
        name = f"{self.name}/{operator}{self.count}"
        node = ir.node(operator, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.graph.insert_before(self.before, node)
        return node.outputs[0]


def _set_constants(graph: ir.Graph, dequantizer: ir.Node, levels: Array, together: int) -> None:
    """Replace the integers of a dequantizer of constants; parameters per channel are repeated."""
    parameters = [_numbers(value) for value in _inputs(dequantizer)[1:]]
    arrays = [levels, *(np.tile(array, together) if array.ndim else array for array in parameters)]
    for place, (value, array) in enumerate(zip(_inputs(dequantizer), arrays, strict=True)):
        dequantizer.replace_input_with(place, _replaced(graph, value, array, f"{dequantizer.name}/{place}"))
    dequantizer.outputs[0].shape = None


def _replaced(graph: ir.Graph, value: ir.Value, array: Array, name: str) -> ir.Value:
    """Replace the numbers of a constant; if another node reads it too, return a new one called `name`."""
    if len(value.uses()) > 1:
        return _initializer(graph, name, array)
    value.const_value, value.shape = ir.tensor(array, name=value.name), ir.Shape(array.shape)
    return value


def _set_geometry(node: ir.Node, geometry: Geometry, *, rows: int) -> None:
    strides, dilations, pads = _window(node)
    groups = geometry.last_group - geometry.first_group + 1
    for name, integers in {
        "kernel_shape": (rows, groups),
        "strides": (strides[0], 1),
        "dilations": (dilations[0], 1),
        "pads": (pads[0], -geometry.first_group, pads[2], geometry.trailing_groups),
    }.items():
        node.attributes.add(ir.AttrInt64s(name, integers))


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def _array(dequantizer: ir.Node) -> Array:
    """Return the integers that a dequantizer of constants reads."""
    return _numbers(_inputs(dequantizer)[0])


def _numbers(value: ir.Value) -> Array:
    if value.const_value is None:
        raise AssertionError(f"{value.name} is not a constant")
    numbers: Array = value.const_value.numpy()
    return numbers


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]
