"""mxint8: weights in OCP Microscaling blocks, a quarter of the bytes, without a single calibration sample.

The number format is in mx.py. In the graph a weight becomes standard ONNX (operator set 21 and later), which any runtime reads:

    exponents (int8) -> Cast -> Pow(2, .) -> scales;  elements (int8), scales -> DequantizeLinear with block_size 32 -> weight

A block runs along the input channels, the axis that a product sums over. Where a kernel has too few of those (the first layer,
a depthwise one), it runs over channels and window together, and a Reshape follows. The exponents are bytes like the standard's
E8M0 scales, because onnxruntime has no kernel for the type itself; as float32 they would cost an eighth of the weights.

Activations stay float32. MX would scale each block of them anew on every image: ONNX can say that, but only as a dozen
operators per layer that no runtime fuses. So a variant is small, not fast: onnxruntime expands the weights once, on loading.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from convert.passes import remove_dead
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.errors import ModelError
from quantize.mx import BLOCK, Blocks, Int8, encode
from quantize.scheme import read_float_graph, write_variant_graph

FEWEST_CHANNELS = BLOCK // 2
"""Of fewer input channels than these a block of its own is not made: a byte of scale would serve too few elements."""

_KERNELS = {"Conv", "ConvTranspose"}
_MATRICES = {"Gemm", "MatMul"}


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a weight is cut into blocks: along `axis` of `shape`, which may differ from its own."""

    axis: int
    shape: tuple[int, ...]


def make_mxint8(build: BuildDirectory, _samples: Samples, folder: Path) -> None:
    """Write the mxint8 variant of a build's graph into `folder`.

    Raises:
        ModelError: the graph has no layer with weights.
    """
    model = read_float_graph(build)
    weighted = list(_weighted(model.graph))
    if not weighted:
        found = sorted({node.op_type for node in model.graph})
        raise ModelError(f"{build.path}: mxint8 needs layers with weights (Conv, Gemm, MatMul, …), but the graph has {found}")
    made: dict[tuple[ir.Value, _Layout], ir.Value] = {}
    writer = _Writer(model.graph)
    for node, weight in weighted:
        key = weight, _layout(node, tuple(weight.shape.numpy()))
        if key not in made:
            made[key] = writer.weight(*key)
        node.replace_input_with(1, made[key])
    remove_dead(model)
    logging.getLogger(__name__).info("encoded weights=%d", len(made))
    write_variant_graph(build, model, folder)


def _weighted(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in graph:
        weight = node.inputs[1] if node.op_type in _KERNELS | _MATRICES and len(node.inputs) > 1 else None
        if weight is not None and weight.const_value is not None and weight.dtype is ir.DataType.FLOAT and len(weight.shape) > 1:
            yield node, weight


def _layout(node: ir.Node, shape: tuple[int, ...]) -> _Layout:
    """Return where the blocks of a weight run: along what its products sum over."""
    if node.op_type == "Conv":
        if shape[1] >= FEWEST_CHANNELS:
            return _Layout(1, shape)
        return _Layout(1, (shape[0], math.prod(shape[1:])))
    if node.op_type == "ConvTranspose":
        return _Layout(0, shape)
    transposed = node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0
    return _Layout(1 if transposed else len(shape) - 2, shape)


class _Writer:
    """Adds to a graph what turns blocks back into a weight."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._first = graph[0]
        self._two = self._node("Constant", [], "two", {"value_float": 2.0})

    def weight(self, weight: ir.Value, layout: _Layout) -> ir.Value:
        """Return the weight as the runtime will see it."""
        elements, exponents = self._constants(weight, layout)
        powers = self._node("Cast", [exponents], f"{weight.name}/p", {"to": int(ir.DataType.FLOAT)})
        scales = self._node("Pow", [self._two, powers], f"{weight.name}/s", {})
        placed = {"block_size": BLOCK, "axis": layout.axis}
        expanded = self._node("DequantizeLinear", [elements, scales], f"{weight.name}/dq", placed)
        shape = tuple(weight.shape.numpy())
        if shape == layout.shape:
            return expanded
        wanted = self._initializer(ir.tensor(list(shape), ir.DataType.INT64, name=f"{weight.name}/shape"))
        return self._node("Reshape", [expanded, wanted], f"{weight.name}/w", {})

    def _constants(self, weight: ir.Value, layout: _Layout) -> tuple[ir.Value, ir.Value]:
        """Return elements and exponents, which are made when they are written: a large model is never in memory whole."""
        tensor = weight.const_value
        if tensor is None:
            raise AssertionError(f"{weight.name} is no weight")

        def blocks() -> Blocks:
            return encode(tensor.numpy().reshape(layout.shape), layout.axis)

        sizes = list(layout.shape)
        sizes[layout.axis] = -(-sizes[layout.axis] // BLOCK)
        elements = _lazy(lambda: blocks().elements, layout.shape, f"{weight.name}/q")
        exponents = _lazy(lambda: blocks().exponents, sizes, f"{weight.name}/e")
        return self._initializer(elements), self._initializer(exponents)

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        kind = ir.TensorType(tensor.dtype)
        made = ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=kind, const_value=tensor)
        self._graph.register_initializer(made)
        return made

    def _node(self, operator: str, inputs: Sequence[ir.Value], name: str, attributes: Mapping[str, int | float]) -> ir.Value:
        """Return the output of a new node, called `name`; the node itself needs no name, and many cost bytes."""
        node = ir.node(operator, inputs, attributes=attributes)
        self._graph.insert_before(self._first, node)
        node.outputs[0].name = name
        return node.outputs[0]


def _lazy(numbers: Callable[[], Int8], shape: Sequence[int], name: str) -> ir.LazyTensor:
    return ir.LazyTensor(lambda: ir.tensor(numbers(), name=name), ir.DataType.INT8, ir.Shape(shape), name=name)
