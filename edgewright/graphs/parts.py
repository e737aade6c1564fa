"""The two parts of a graph, featurizer and head, from its recorded cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from edgewright.contracts.build_directory import Cut


@dataclass(frozen=True, slots=True)
class Parts:
    """The nodes of the two parts of a graph."""

    featurizer: frozenset[ir.Node]
    head: frozenset[ir.Node]

    def is_head(self, node: ir.Node) -> bool:
        """Return whether a node is in the head."""
        return node in self.head


def parts_of(model: ir.Model, cut: Cut) -> Parts:
    """Return the featurizer and the head of a graph with a recorded cut."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    producers = [values[name].producer() for name in cut.tensors if name in values]
    featurizer = ancestors(node for node in producers if node is not None)
    return Parts(frozenset(featurizer), frozenset(set(model.graph) - featurizer))


def ancestors(nodes: Iterable[ir.Node | None]) -> set[ir.Node]:
    """Return `nodes` without None, and every node that they depend on."""
    result: set[ir.Node] = set()
    pending = [node for node in nodes if node is not None]
    while pending:
        node = pending.pop()
        if node not in result:
            result.add(node)
            producers = (value.producer() for value in node.inputs if value is not None)
            pending += [producer for producer in producers if producer is not None]
    return result
