"""MXINT8 weights in an ONNX graph, in standard operators (operator set 21 and later) that every runtime supports:

    exponents (int8) -> Cast -> Pow(2, .) -> scales;  elements (int8), scales -> DequantizeLinear with block_size 32 -> weight

The exponents are bytes like the standard's E8M0 scales, because onnxruntime has no kernel for that type; as float32 they would
take an eighth of the weights' size. A Reshape follows if the shape of the block layout differs from the weight's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from quantize.mx.encoding import BLOCK, Blocks, Int8
from quantize.weights.editing import FreshNames, GraphEditor

OPSET = 21
"""The first operator set with block quantization."""
IR_VERSION = 10
"""The first file format version for that operator set."""
FEWEST_CHANNELS = BLOCK // 2
"""A block along fewer input channels would spend a byte of scale on too few elements."""
ELEMENTS, EXPONENTS = "{0}/q", "{0}/e"
"""The names of the two constants for the weight called {0}."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The block layout of a weight: along `axis` of `shape`, which may differ from the weight's shape."""

    axis: int
    shape: tuple[int, ...]


class BlockWriter:
    """A writer of the nodes that expand blocks to a weight."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._first = graph[0]
        self._names = FreshNames.of(graph)
        self._tables: dict[str, ir.Value] = {}
        self._two = self._node("Constant", [], "two", {"value_float": 2.0})

    def weight(self, name: str, shape: tuple[int, ...], layout: Layout, blocks: Callable[[], Blocks]) -> ir.Value:
        """Return the expanded weight `name` with shape `shape`.

        `blocks` encodes the weight; it is called when the graph is written, so that a large model is never in memory as a whole.
        """
        sizes = list(layout.shape)
        sizes[layout.axis] = -(-sizes[layout.axis] // BLOCK)
        fresh = self._names.fresh
        elements = self.initializer(_lazy(lambda: blocks().elements, layout.shape, fresh(ELEMENTS.format(name))))
        exponents = self.initializer(_lazy(lambda: blocks().exponents, sizes, fresh(EXPONENTS.format(name))))
        powers = self._node("Cast", [exponents], f"{name}/p", {"to": int(ir.DataType.FLOAT)})
        scales = self._node("Pow", [self._two, powers], f"{name}/s", {})
        attributes = {"block_size": BLOCK, "axis": layout.axis}
        expanded = self._node("DequantizeLinear", [elements, scales], f"{name}/dq", attributes)
        if shape == layout.shape:
            return expanded
        target = self.initializer(ir.tensor(list(shape), ir.DataType.INT64, name=fresh(f"{name}/shape")))
        return self._node("Reshape", [expanded, target], f"{name}/w", {})

    def rows(self, node: ir.Node, name: str, layout: Layout, blocks: Callable[[], Blocks]) -> None:
        """Replace a Gather from the table `name` by one from its blocks, which expands only the rows that are read."""
        rows, columns = layout.shape
        tables = ((ELEMENTS, lambda: blocks().elements, columns), (EXPONENTS, lambda: blocks().exponents, -(-columns // BLOCK)))
        editor, where = GraphEditor(self._graph, node), str(node.name)
        parts: list[ir.Value] = []
        for form, numbers, width in tables:
            if form.format(name) not in self._tables:
                fresh = self._names.fresh(form.format(name))
                self._tables[form.format(name)] = self.initializer(_lazy(numbers, (rows, width), fresh))
            table = self._tables[form.format(name)]
            parts += editor.add("Gather", [table, *node.inputs[1:]], form.format(where), {"axis": 0})
        (powers,) = editor.add("Cast", parts[1:], f"{where}/p", {"to": int(ir.DataType.FLOAT)})
        (scales,) = editor.add("Pow", [self._two, powers], f"{where}/s")
        editor.replace(editor.add("DequantizeLinear", [parts[0], scales], f"{where}/dq", {"block_size": BLOCK, "axis": -1}))

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a constant to the graph and return it."""
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=kind, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _node(self, operator: str, inputs: Sequence[ir.Value], name: str, attributes: Mapping[str, int | float]) -> ir.Value:
        """Return the output, called `name` if that is free, of a new node; the node itself has no name, which saves bytes."""
        node = ir.node(operator, inputs, attributes=attributes)
        self._graph.insert_before(self._first, node)
        node.outputs[0].name = self._names.fresh(name)
        return node.outputs[0]


def _lazy(numbers: Callable[[], Int8], shape: Sequence[int], name: str) -> ir.LazyTensor:
    return ir.LazyTensor(lambda: ir.tensor(numbers(), name=name), ir.DataType.INT8, ir.Shape(shape), name=name)
