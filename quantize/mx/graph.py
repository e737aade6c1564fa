"""MXINT8 weights in an ONNX graph, in standard operators (operator set 21 and later) that any runtime reads:

    exponents (int8) -> Cast -> Pow(2, .) -> scales;  elements (int8), scales -> DequantizeLinear with block_size 32 -> weight

The exponents are bytes like the standard's E8M0 scales, because onnxruntime has no kernel for the type itself; as float32 they
would cost an eighth of the weights. Where blocks do not run along an axis that the weight has, a Reshape follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from quantize.mx.encoding import BLOCK, Blocks, Int8

OPSET = 21
"""The first operator set with blocks."""
IR_VERSION = 10
"""The first file format that goes with it."""
FEWEST_CHANNELS = BLOCK // 2
"""Of fewer input channels than these a block of its own is not made: a byte of scale would serve too few elements."""
ELEMENTS, EXPONENTS = "{0}/q", "{0}/e"
"""What the two constants of the weight called {0} are called."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight is cut into blocks: along `axis` of `shape`, which may differ from its own."""

    axis: int
    shape: tuple[int, ...]


class BlockWriter:
    """Adds to a graph what turns blocks back into a weight."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._first = graph[0]
        self._two = self._node("Constant", [], "two", {"value_float": 2.0})

    def weight(self, name: str, shape: tuple[int, ...], layout: Layout, blocks: Callable[[], Blocks]) -> ir.Value:
        """Return the weight `name` of `shape` as the runtime will see it.

        `blocks` encodes it; it is called when the graph is written, so that a large model is never in memory whole.
        """
        sizes = list(layout.shape)
        sizes[layout.axis] = -(-sizes[layout.axis] // BLOCK)
        elements = self.initializer(_lazy(lambda: blocks().elements, layout.shape, ELEMENTS.format(name)))
        exponents = self.initializer(_lazy(lambda: blocks().exponents, sizes, EXPONENTS.format(name)))
        powers = self._node("Cast", [exponents], f"{name}/p", {"to": int(ir.DataType.FLOAT)})
        scales = self._node("Pow", [self._two, powers], f"{name}/s", {})
        placed = {"block_size": BLOCK, "axis": layout.axis}
        expanded = self._node("DequantizeLinear", [elements, scales], f"{name}/dq", placed)
        if shape == layout.shape:
            return expanded
        wanted = self.initializer(ir.tensor(list(shape), ir.DataType.INT64, name=f"{name}/shape"))
        return self._node("Reshape", [expanded, wanted], f"{name}/w", {})

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Return a new constant."""
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
