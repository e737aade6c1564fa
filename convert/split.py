"""Cut a graph into a featurizer, which an accelerator runs, and a head, which users retrain.

A cut is a set of tensors. The featurizer is every node that they depend on, and the head is the rest. `auto` cuts after the last
convolution or pooling and the activations and reshapes that follow it; a model without such operators is all head. With
accelerators, `auto` cuts before the first operator that one of them lacks, since everything after it runs on the processor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from edgewright.contracts.build_directory import Cut
from edgewright.contracts.names import nearest
from edgewright.errors import NotFoundError
from edgewright.graphs.parts import Parts, ancestors

AUTO = "auto"

_SPATIAL = {
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalMaxPool",
    "GlobalAveragePool",
    "Resize",
}
_FOLLOWS = {
    "Add",
    "BatchNormalization",
    "Clip",
    "Elu",
    "Flatten",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mul",
    "PRelu",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Squeeze",
    "Tanh",
    "Transpose",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportedOperators:
    """Operators that an accelerator supports."""

    anywhere: Collection[str]
    at_inputs: Collection[str] = ()
    """Operators supported only directly on graph inputs."""


def split(model: ir.Model, head_from: str, accelerators: Collection[SupportedOperators] = ()) -> tuple[Cut, Parts]:
    """Cut `model` before the node or layer `head_from`, or with `auto` at the last cut that all `accelerators` support.

    Raises:
        NotFoundError: there is no such node or layer; the message suggests similar names.
    """
    graph = model.graph
    featurizer = _auto(graph, accelerators) if head_from == AUTO else _before(graph, head_from)
    parts = Parts(frozenset(featurizer), frozenset(set(graph) - featurizer))
    tensors = _boundary(graph, parts)
    return Cut(tensors=tensors, featurizer_nodes=len(parts.featurizer), head_nodes=len(parts.head)), parts


def _auto(graph: ir.Graph, accelerators: Collection[SupportedOperators]) -> set[ir.Node]:
    supported = set(graph)
    for accelerator in accelerators:
        supported &= _supported_nodes(graph, accelerator)
    featurizer = ancestors(node for node in supported if node.op_type in _SPATIAL)
    for node in graph:  # sorted topologically, so one iteration is enough
        producers = _producers(node)
        if featurizer and node in supported and node.op_type in _FOLLOWS and producers and producers <= featurizer:
            featurizer.add(node)
    return featurizer


def _supported_nodes(graph: ir.Graph, accelerator: SupportedOperators) -> set[ir.Node]:
    """Return the nodes that the accelerator can run together with all their ancestors."""
    nodes: set[ir.Node] = set()
    for node in graph:
        producers = _producers(node)
        is_supported = node.op_type in accelerator.anywhere or (node.op_type in accelerator.at_inputs and producers <= {None})
        if is_supported and producers <= nodes | {None}:
            nodes.add(node)
    return nodes


def _producers(node: ir.Node) -> set[ir.Node | None]:
    """Return the nodes that produce a node's inputs; None stands for the graph's inputs."""
    return {value.producer() for value in node.inputs if value is not None and not _is_constant(value)}


def _before(graph: ir.Graph, name: str) -> set[ir.Node]:
    starts = [node for node in graph if node.name == name or (node.name or "").startswith(f"{name}/")]
    if not starts:
        layers = {(node.name or "").rpartition("/")[0] or str(node.name) for node in graph}
        raise NotFoundError(f"the graph has no node or layer {name!r}{nearest(name, layers)}")
    head: set[ir.Node] = set()
    for node in graph:
        if node in starts or any(value is not None and value.producer() in head for value in node.inputs):
            head.add(node)
    # Nodes whose results only the head uses belong to the head, even if they do not depend on the named node.
    return ancestors(value.producer() for node in head for value in node.inputs if value is not None) - head


def _boundary(graph: ir.Graph, parts: Parts) -> tuple[str, ...]:
    """Return the featurizer's output tensors in graph order, or the graph's inputs if there is no featurizer."""
    if not parts.featurizer:
        return tuple(str(value.name) for value in graph.inputs)
    leaving = []
    for node in graph:
        if node in parts.featurizer:
            leaving += [
                out for out in node.outputs if out.is_graph_output() or any(user in parts.head for user in out.consumers())
            ]
    return tuple(str(value.name) for value in leaving)


def _is_constant(value: ir.Value) -> bool:
    return value.const_value is not None
