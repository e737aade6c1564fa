"""Cut a graph into a featurizer, which an accelerator runs, and the head behind it, which is trained again and again.

The cut is a set of tensors. Everything that they need is the featurizer, the rest is the head, so the record of a cut is its
tensors alone. `auto` puts everything into the featurizer that a last convolution or pooling needs, and the activations and
reshapes right behind it; a model without such operators is all head. Where the graph is meant for accelerators, `auto` stops
before the first operator that one of them cannot run: what comes behind that runs on the processor in any case.
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
    """Operators that an accelerator runs."""

    anywhere: Collection[str]
    at_inputs: Collection[str] = ()
    """Those that it runs on what comes from the user alone."""


def split(model: ir.Model, head_from: str, accelerators: Collection[SupportedOperators] = ()) -> tuple[Cut, Parts]:
    """Cut `model` before the node or layer `head_from`, or where `auto` says for all of `accelerators`.

    Raises:
        NotFoundError: there is no such node or layer; the nearest names are offered.
    """
    graph = model.graph
    featurizer = _auto(graph, accelerators) if head_from == AUTO else _before(graph, head_from)
    parts = Parts(frozenset(featurizer), frozenset(set(graph) - featurizer))
    tensors = _boundary(graph, parts)
    return Cut(tensors=tensors, featurizer_nodes=len(parts.featurizer), head_nodes=len(parts.head)), parts


def _auto(graph: ir.Graph, accelerators: Collection[SupportedOperators]) -> set[ir.Node]:
    possible = set(graph)
    for accelerator in accelerators:
        possible &= _reached(graph, accelerator)
    featurizer = ancestors(node for node in possible if node.op_type in _SPATIAL)
    for node in graph:  # producers come first, so one round is enough
        producers = _producers(node)
        if featurizer and node in possible and node.op_type in _FOLLOWS and producers and producers <= featurizer:
            featurizer.add(node)
    return featurizer


def _reached(graph: ir.Graph, accelerator: SupportedOperators) -> set[ir.Node]:
    """Return the nodes that the accelerator runs with all that they need."""
    reached: set[ir.Node] = set()
    for node in graph:
        producers = _producers(node)
        known = node.op_type in accelerator.anywhere or (node.op_type in accelerator.at_inputs and producers <= {None})
        if known and producers <= reached | {None}:
            reached.add(node)
    return reached


def _producers(node: ir.Node) -> set[ir.Node | None]:
    """Return the nodes that a node reads from; None stands for the graph's inputs."""
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
    # What reaches the head only is the head's, also when it does not come after the named node.
    return ancestors(value.producer() for node in head for value in node.inputs if value is not None) - head


def _boundary(graph: ir.Graph, parts: Parts) -> tuple[str, ...]:
    """Return the tensors that leave the featurizer (the graph's inputs where there is none), in the order of the graph."""
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
