"""Edit the graph of a variant: free names, nodes in the part of an original node, constants that are computed when written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import convenience

from edgewright.graphs.bodies import inner_nodes

OWNER = "edgewright.owner"
"""Metadata of an added node: the name of the original node in whose part of the graph, head or featurizer, it is stored."""

_NAMES = "edgewright.names"
_DTYPES = {"int8": ir.DataType.INT8, "float32": ir.DataType.FLOAT, "int64": ir.DataType.INT64}


class FreshNames:
    """The names of a graph and of the bodies in it, for new names that differ from all of them."""

    def __init__(self, graph: ir.Graph) -> None:
        """Collect the names of all nodes and values."""
        nodes = [*graph, *(inner for node in graph for inner in inner_nodes(node))]
        values = [
            *graph.inputs,
            *graph.initializers.values(),
            *(value for node in nodes for value in (*node.inputs, *node.outputs)),
        ]
        self._taken = {str(one.name) for one in (*nodes, *values) if one is not None}

    @classmethod
    def of(cls, graph: ir.Graph) -> FreshNames:
        """Return the names that everything which edits `graph` shares; the first call collects them."""
        if _NAMES not in graph.meta:
            graph.meta[_NAMES] = cls(graph)
        names: FreshNames = graph.meta[_NAMES]
        return names

    def fresh(self, name: str) -> str:
        """Return `name`, with a number if it is taken; it is taken from then on."""
        numbered = (f"{name}/{number}" for number in itertools.count())
        free = next(one for one in itertools.chain([name], numbered) if one not in self._taken)
        self._taken.add(free)
        return free


class GraphEditor:
    """Nodes and constants that are added to a graph before one of its nodes."""

    def __init__(self, graph: ir.Graph, before: ir.Node, *, same_part: bool = True) -> None:
        """Add to the part of `before`, or with `same_part` False to that of the consumers."""
        self._graph = graph
        self._before = before
        self._names = FreshNames.of(graph)
        self._owner = str(before.name) if same_part else None

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: Sequence[str] | None = None,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Add a node called `name` and return its outputs, by default one of the same name; taken names get a number."""
        names = [one and self._names.fresh(one) for one in outputs or (name,)]
        own = names[0] if outputs is None else self._names.fresh(name)
        node = ir.node(operator, inputs, attributes=attributes, domain=domain, num_outputs=len(names), name=own)
        if self._owner is not None:
            node.metadata_props[OWNER] = self._owner
        self._graph.insert_before(self._before, node)
        for output, output_name in zip(node.outputs, names, strict=True):
            output.name = output_name
        added: Sequence[ir.Value] = node.outputs
        return added

    def constant(self, name: str, shape: Sequence[int], load: Callable[[], npt.NDArray[Any]], dtype: str = "float32") -> ir.Value:
        """Add a constant; `load` computes its contents at each access, so that no weight stays in memory."""
        kind, name = _DTYPES[dtype], self._names.fresh(name)

        def evaluate() -> ir.Tensor:
            return ir.tensor(np.ascontiguousarray(load(), dtype).reshape(tuple(shape)), name=name)

        lazy = ir.LazyTensor(evaluate, kind, ir.Shape(tuple(shape)), name=name)
        value = ir.Value(name=name, shape=ir.Shape(tuple(shape)), type=ir.TensorType(kind), const_value=lazy)
        self._graph.register_initializer(value)
        return value

    def replace(self, outputs: Sequence[ir.Value]) -> None:
        """Remove the node that was added before; `outputs` take the names and the users of its outputs."""
        node = self._before
        convenience.replace_nodes_and_values(self._graph, node, [node], [], list(node.outputs), list(outputs))


def weight_of(node: ir.Node, place: int) -> ir.Value | None:
    """Return the float32 constant at an input of `node`, or None for other inputs."""
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None or value.const_value is None or value.dtype is not ir.DataType.FLOAT or value.is_graph_output():
        return None
    return value


def numbers_of(weight: ir.Value) -> npt.NDArray[np.float32]:
    """Return the contents of a weight."""
    if weight.const_value is None:
        raise AssertionError(f"{weight.name} is not a weight")
    numbers: npt.NDArray[np.float32] = weight.const_value.numpy()
    return numbers


def shape_of(weight: ir.Value) -> tuple[int, ...]:
    """Return the shape of a weight."""
    if weight.const_value is None:
        raise AssertionError(f"{weight.name} is not a weight")
    return tuple(weight.const_value.shape.numpy())
