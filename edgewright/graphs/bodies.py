"""The graphs inside of nodes: the bodies of a Loop, an If or a Scan, which may read every value of the graph around them."""

from __future__ import annotations

import onnx_ir as ir


def bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node holds as attributes."""
    single = [one.as_graph() for one in node.attributes.values() if one.type is ir.AttributeType.GRAPH]
    several = [graph for one in node.attributes.values() if one.type is ir.AttributeType.GRAPHS for graph in one.as_graphs()]
    return [*single, *several]


def inner_nodes(node: ir.Node) -> list[ir.Node]:
    """Return the nodes of the bodies of `node`, and of the bodies of those."""
    direct = [inner for body in bodies(node) for inner in body]
    return [*direct, *(one for inner in direct for one in inner_nodes(inner))]
