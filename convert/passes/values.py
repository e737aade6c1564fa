"""Helpers of the passes: read constants, add weights, replace nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the operator requires."""
    value = node.inputs[index]
    if value is None:
        raise AssertionError(f"{node.name} lacks input {index}")
    return value


def is_constant(value: ir.Value | None) -> bool:
    """Return whether the value is an initializer whose contents are known."""
    return value is not None and value.const_value is not None


def constant_of(value: ir.Value | None) -> npt.NDArray[Any]:
    """Return the contents of a constant."""
    if value is None or value.const_value is None:
        raise AssertionError("not a constant")
    return np.asarray(value.const_value.numpy())


def add_initializer(graph: ir.Graph, tensor: Any) -> ir.Value:
    """Register a tensor as an initializer and return its value; a number makes a taken name unique."""
    name, count = tensor.name, 1
    while name in graph.initializers:
        count += 1
        name = f"{tensor.name}_{count}"
    tensor.name = name
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def can_replace(old: ir.Value, new: ir.Value) -> bool:
    """Return whether `new` may replace `old`: a graph output needs a node of its own."""
    return not old.is_graph_output() or not (new.producer() is None or new.is_graph_output())


def replace_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove a node with one used output, and use `value` instead of that output."""
    if node.outputs[0].is_graph_output():
        rename_as_output(graph, node.outputs[0], value)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)


def rename_as_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make `new` the graph output instead of `old`, with its name, shape and type."""
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = None
    graph.outputs[list(graph.outputs).index(old)] = new
