"""Make the first convolution of an int8 graph fast: compute a few neighbouring columns of its output at once.

onnxruntime gathers the input of a convolution pixel by pixel. Where a pixel has three channels that takes longer than the
arithmetic: on MobileNetV2 the first of 52 convolutions took an eighth of the time (onnxruntime's profiler). So four columns of
the input become the channels of one, and the kernel, moved and filled up with zeros, gives the outputs that belong to them as
further channels:

    [N, H, W, 3]  is  [N, H, W/4, 12]        the same bytes, channels last
    [N, H, W/2, 64]  is  [N, H, W, 32]       what comes out, at stride 2

Zeros add nothing to a sum of integers, so every output is the same to the last bit; there is twice as much to multiply, and
still the layer takes half the time. The runtime's own optimizer removes the transpositions that are written here, because its
integer convolutions keep channels last. Only the pair of uint8 activations and int8 weights is packed: that is what x86
processors run, where this was measured. A network for a microcontroller, whose file would grow, stays as it is.
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
"""Columns of the input that become one; of 1, 2, 4 and 8 the fastest on every network tried, at stride 1 and 2."""
LARGEST_SHARE = 1 / 64
"""How many of the graph's weights a packed kernel may be: of MobileNetV2 it is a thousandth, of ResNet-8 a twelfth."""
FEW_CHANNELS = 4
"""Above that gathering is quick enough and the additional arithmetic is not."""

_TO_CHANNELS_LAST = (0, 2, 3, 1)
_TO_CHANNELS_FIRST = (0, 3, 1, 2)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class QuantizedConvolution:
    """A convolution whose inputs come from DequantizeLinear and whose output goes to QuantizeLinear alone."""

    node: ir.Node
    activations: ir.Node
    weights: ir.Node
    bias: ir.Node | ir.Value | None
    """Integers behind a quantizer, or floats as they are."""
    output: ir.Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """One axis of a convolution, the one that runs along the columns."""

    width: int
    kernel: int
    stride: int
    dilation: int
    lead: int
    """Columns of padding before the first."""
    trail: int

    @property
    def out_width(self) -> int:
        """How many columns come out."""
        return (self.width + self.lead + self.trail - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def together(self) -> int:
        """How many columns of the output are computed at once."""
        return COLUMNS // self.stride

    def column(self, output: int, place: int) -> int:
        """Return which column, counted from the first of its group, `output` of a group sees at `place` of the kernel."""
        return output * self.stride - self.lead + place * self.dilation

    @property
    def first_group(self) -> int:
        """The first group of columns that a group of outputs needs, counted from its own."""
        return self.column(0, 0) // COLUMNS

    @property
    def last_group(self) -> int:
        """The last one."""
        return self.column(self.together - 1, self.kernel - 1) // COLUMNS

    @property
    def trailing_groups(self) -> int:
        """Groups of padding behind the last; never fewer than none, for at most a stride less one column is left over."""
        return self.out_width // self.together + self.last_group - self.width // COLUMNS

    @property
    def packs(self) -> bool:
        """Whether whole groups go in and come out."""
        return (
            COLUMNS % self.stride == 0
            and self.width % COLUMNS == 0
            and self.out_width > 0
            and self.out_width % self.together == 0
        )


def space_to_depth(graph: ir.Graph, *, largest_share: float = math.inf) -> int:
    """Pack the columns of every convolution of few channels in a quantized graph, in place; return how many there were.

    Left alone is one whose packed kernel would have more than `largest_share` of the weights that the graph has now.
    """
    packed = 0
    weights = sum(value.const_value.size for value in graph.initializers.values() if value.const_value is not None)
    for node in list(graph):
        found = _quantized_convolution(node)
        geometry = None if found is None else _geometry(found)
        if (
            found is not None
            and geometry is not None
            and geometry.packs
            and _packed_size(found, geometry) <= largest_share * weights
        ):
            _pack(graph, found, geometry)
            packed += 1
    return packed


def packed_weight(weight: Array, geometry: Geometry) -> Array:
    """Return a kernel [out, in, rows, columns] as [together x out, COLUMNS x in, rows, groups]."""
    out, channels, rows, columns = weight.shape
    groups = geometry.last_group - geometry.first_group + 1
    packed = np.zeros((geometry.together, out, COLUMNS, channels, rows, groups), weight.dtype)
    for output in range(geometry.together):
        for place in range(columns):
            group, column = divmod(geometry.column(output, place), COLUMNS)
            packed[output, :, column, :, :, group - geometry.first_group] = weight[..., place]
    return packed.reshape(geometry.together * out, COLUMNS * channels, rows, groups)


def _packed_size(found: QuantizedConvolution, geometry: Geometry) -> int:
    """Return how many weights the packed kernel will have."""
    out, channels, rows, _ = _array(found.weights).shape
    groups = geometry.last_group - geometry.first_group + 1
    return int(geometry.together * out * COLUMNS * channels * rows * groups)


def _quantized_convolution(node: ir.Node) -> QuantizedConvolution | None:
    """Return what surrounds a convolution that may be packed; None for any other node."""
    users = node.outputs[0].consumers()
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    is_float = bias is not None and bias.is_initializer()
    writers = [None if value is None else value.producer() for value in node.inputs[: 2 if is_float else 3]]
    if node.op_type != "Conv" or len(users) != 1 or users[0].op_type != "QuantizeLinear" or node.outputs[0].is_graph_output():
        return None
    if any(writer is None or writer.op_type != "DequantizeLinear" for writer in writers):
        return None
    activations, weights, *rest = [writer for writer in writers if writer is not None]
    constants = [value for writer in (weights, *rest) for value in _inputs(writer)]
    if any(value.const_value is None for value in constants) or any(len(one.outputs[0].uses()) > 1 for one in (weights, *rest)):
        return None
    kernel = _array(weights)
    plain = node.attributes.get_int("group", 1) == 1 and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    few = kernel.ndim == 4 and kernel.shape[1] <= FEW_CHANNELS and kernel.shape[2] * kernel.shape[3] > 1
    if not (plain and few and _levels_of(users[0]) is ir.DataType.UINT8 and kernel.dtype == np.int8):
        return None
    return QuantizedConvolution(node, activations, weights, bias if is_float else rest[0] if rest else None, users[0])


def _levels_of(quantizer: ir.Node) -> ir.DataType | None:
    """Return the type of integers that a quantizer makes: its zero point's."""
    parameters = _inputs(quantizer)
    return parameters[2].dtype if len(parameters) > 2 else None


def _geometry(convolution: QuantizedConvolution) -> Geometry | None:
    width = _width(convolution.activations)
    if width is None:
        return None
    pads = _integers(convolution.node, "pads", (0, 0, 0, 0))
    return Geometry(
        width=width,
        kernel=_array(convolution.weights).shape[3],
        stride=_integers(convolution.node, "strides", (1, 1))[1],
        dilation=_integers(convolution.node, "dilations", (1, 1))[1],
        lead=pads[1],
        trail=pads[3],
    )


def _width(node: ir.Node) -> int | None:
    """Return the size of the last axis of what a quantizer gives: its own or that of the float tensor before it."""
    for value in (node.outputs[0], *_inputs(node)[:1]):
        if value.shape is not None and isinstance(value.shape[-1], int):
            return value.shape[-1]
    before = _inputs(node)[0].producer()
    return _width(before) if before is not None and before.op_type in ("QuantizeLinear", "DequantizeLinear") else None


def _pack(graph: ir.Graph, found: QuantizedConvolution, geometry: Geometry) -> None:
    """Rewrite one convolution; what follows reads the tensor that it read before, under the name that it had."""
    node, output, weight = found.node, found.node.outputs[0], _array(found.weights)
    narrow = (0, 0, geometry.width // COLUMNS, COLUMNS * weight.shape[1])
    wide = (0, 0, geometry.out_width, weight.shape[0])
    name, output.name = output.name, f"{node.name}/packed"
    output.shape = None

    entering = _Steps(graph=graph, before=node, like=found.activations, name=f"{node.name}/in")
    node.replace_input_with(0, entering.quantized(entering.regrouped(found.activations.outputs[0], narrow)))
    _set_constants(graph, found.weights, packed_weight(weight, geometry), geometry.together)
    if isinstance(found.bias, ir.Value):
        node.replace_input_with(2, _replaced(graph, found.bias, np.tile(_numbers(found.bias), geometry.together), f"{name}/bias"))
    elif found.bias is not None:
        _set_constants(graph, found.bias, np.tile(_array(found.bias), geometry.together), geometry.together)
    _set_geometry(node, geometry, rows=weight.shape[2])
    leaving = _Steps(graph=graph, before=found.output, like=found.output, name=f"{node.name}/out")
    result = leaving.regrouped(leaving.quantized(output), wide)
    result.name = name
    found.output.replace_input_with(0, result)


@dataclass(slots=True, kw_only=True)
class _Steps:
    """Nodes that are put in `before` one, with the scale and zero point of the quantizer `like`."""

    graph: ir.Graph
    before: ir.Node
    like: ir.Node
    name: str
    count: int = 0

    def quantized(self, value: ir.Value) -> ir.Value:
        """Round a tensor and take it back: that says that integers flow here."""
        parameters = _inputs(self.like)[1:]
        return self._step("DequantizeLinear", [self._step("QuantizeLinear", [value, *parameters]), *parameters])

    def regrouped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Give a tensor another shape, seen with its channels last; 0 keeps a size."""
        last = self.quantized(self._step("Transpose", [value], perm=_TO_CHANNELS_LAST))
        wanted = _initializer(self.graph, f"{self.name}/shape", np.array(shape, np.int64))
        return self._step("Transpose", [self.quantized(self._step("Reshape", [last, wanted]))], perm=_TO_CHANNELS_FIRST)

    def _step(self, operator: str, inputs: Sequence[ir.Value], **attributes: Sequence[int]) -> ir.Value:
        self.count += 1
        name = f"{self.name}/{operator}{self.count}"
        node = ir.node(operator, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.graph.insert_before(self.before, node)
        return node.outputs[0]


def _set_constants(graph: ir.Graph, dequantizer: ir.Node, levels: Array, together: int) -> None:
    """Give a quantizer of constants other levels; what there is one of per channel is repeated."""
    parameters = [_numbers(value) for value in _inputs(dequantizer)[1:]]
    arrays = [levels, *(np.tile(array, together) if array.ndim else array for array in parameters)]
    for place, (value, array) in enumerate(zip(_inputs(dequantizer), arrays, strict=True)):
        dequantizer.replace_input_with(place, _replaced(graph, value, array, f"{dequantizer.name}/{place}"))
    dequantizer.outputs[0].shape = None


def _replaced(graph: ir.Graph, value: ir.Value, array: Array, name: str) -> ir.Value:
    """Return a constant with other numbers: the same one, or one called `name` where another node reads it too."""
    if len(value.uses()) > 1:
        return _initializer(graph, name, array)
    value.const_value, value.shape = ir.tensor(array, name=value.name), ir.Shape(array.shape)
    return value


def _set_geometry(node: ir.Node, geometry: Geometry, *, rows: int) -> None:
    strides, dilations = _integers(node, "strides", (1, 1)), _integers(node, "dilations", (1, 1))
    pads = _integers(node, "pads", (0, 0, 0, 0))
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
    """Return the integers that a quantizer of constants reads."""
    return _numbers(_inputs(dequantizer)[0])


def _numbers(value: ir.Value) -> Array:
    if value.const_value is None:
        raise AssertionError("only constants are asked for")
    found: Array = value.const_value.numpy()
    return found


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _integers(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints(name, default))
