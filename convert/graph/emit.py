"""Build graphs: nodes that all have names, and weights that are read only when they are written.

Every node is called `<where>/<operator>`; `where` is the path of its layer. So users recognize their layers, and quantization,
which selects nodes by name, never gets an empty name. Weights are lazy: the shape is known at once, and the contents are fetched
from the framework one tensor at a time. So a graph needs no second copy of a model's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgewright.graphs.lazy_weights import LazyWeight

OPSET = 21
"""The newest operator set that onnxruntime runs in every precision of our variants (28 has no int8 kernels)."""
IR_VERSION = 10

Shape = tuple[int | None, ...]
BATCH_AXIS = "N"


class Emitter:
    """Collector of nodes and weights; `model` returns them as a model."""

    def __init__(self) -> None:
        self._nodes: list[ir.Node] = []
        self._weights: dict[Hashable, ir.Value] = {}
        self._names: set[str] = set()

    def node(
        self, operator: str, inputs: Sequence[ir.Value | None], *, where: str, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Append a node with one output and return that output."""
        name = self.unique(f"{where}/{operator}")
        node = ir.node(operator, list(inputs), attributes=attributes, domain=domain, name=name)
        node.outputs[0].name = name
        self._nodes.append(node)
        return node.outputs[0]

    def insert(self, graph: ir.Graph, inputs: Sequence[ir.Value]) -> list[ir.Value]:
        """Move the nodes and weights of another graph here, with `inputs` in the place of its own; return its outputs.

        The names in the graph must not be taken.
        """
        outputs = list(graph.outputs)
        graph.outputs.clear()
        for own, given in zip(graph.inputs, inputs, strict=True):
            ir.convenience.replace_all_uses_with(own, given)
            outputs = [given if output is own else output for output in outputs]
        weights, nodes = list(graph.initializers.values()), list(graph)
        graph.initializers.clear()
        graph.remove(nodes)
        self._nodes += nodes
        self._weights |= {str(weight.name): weight for weight in weights}
        self._names |= {str(value.name) for value in (*weights, *nodes, *(output for node in nodes for output in node.outputs))}
        return outputs

    def nodes(
        self, operator: str, inputs: Sequence[ir.Value | None], *, where: str, count: int, **attributes: Any
    ) -> list[ir.Value]:
        """Append a node with `count` outputs and return them."""
        name = self.unique(f"{where}/{operator}")
        node = ir.node(operator, list(inputs), attributes=attributes, num_outputs=count, name=name)
        for place, value in enumerate(node.outputs):
            value.name = self.unique(f"{name}/{place}")
        self._nodes.append(node)
        return list(node.outputs)

    def weight(self, key: Hashable, name: str, shape: tuple[int, ...], load: Callable[[], npt.NDArray[Any]]) -> ir.Value:
        """Return the float32 weight with the identity `key`; `load` returns its contents when they are needed."""
        if key not in self._weights:
            self._weights[key] = self._initializer(LazyWeight(self.unique(name), shape, load))
        return self._weights[key]

    def floats(self, name: str, values: npt.ArrayLike) -> ir.Value:
        """Return a new float32 constant."""
        return self._constant(name, np.asarray(values, np.float32))

    def integers(self, name: str, values: npt.ArrayLike) -> ir.Value:
        """Return a new int64 constant (shapes, axes, pads)."""
        return self._constant(name, np.asarray(values, np.int64))

    def constant(self, name: str, values: npt.NDArray[Any]) -> ir.Value:
        """Return a new constant with the dtype of `values`; objects are text."""
        return self._constant(name, values)

    def unique(self, name: str) -> str:
        """Reserve and return `name`, with a number appended if it is taken."""
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
        """Return all nodes and weights so far as a model."""
        graph = ir.Graph(
            inputs, outputs, nodes=self._nodes, initializers=list(self._weights.values()), opset_imports={"": OPSET}, name="model"
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgewright")

    def _constant(self, name: str, values: npt.NDArray[Any]) -> ir.Value:
        name = self.unique(name)
        if values.dtype.kind == "O":
            texts = [str(text).encode() for text in values.ravel()]
            tensor: Any = ir.StringTensor(texts, shape=ir.Shape(values.shape), name=name)
        else:
            tensor = ir.tensor(values, name=name)
        self._weights[name] = self._initializer(tensor)
        return self._weights[name]

    @staticmethod
    def _initializer(tensor: Any) -> ir.Value:
        return ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def graph_input(name: str, dtype: ir.DataType, shape: Shape) -> ir.Value:
    """Return a graph input; the first axis is the batch, and other dynamic axes are named by their index."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=named_shape(name, shape))


def named_shape(name: str, shape: Shape) -> ir.Shape:
    """Return the shape with a dynamic batch and a name for every other dynamic axis."""
    axes: list[int | str] = [BATCH_AXIS]
    axes += [size if size is not None else f"{name}_axis{axis}" for axis, size in enumerate(shape[1:], start=1)]
    return ir.Shape(axes)
