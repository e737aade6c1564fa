"""Give the constants and nodes of a graph from tf2onnx names that are the same in every conversion.

tf2onnx appends numbers of a counter of its process (`const_fold_opt__57`), in an order that depends on memory addresses. Here
they are counted again, in the order of the nodes, so that the same source gives the same bytes.
"""

from __future__ import annotations

import re

import onnx

from convert.operator_sets import graphs_of

_NUMBERED = re.compile(r"(?P<stem>.*?)__\d+(?P<output>:\d+)?")


def count_again(proto: onnx.ModelProto) -> None:
    """Rename nodes and values that end in a number of tf2onnx, in place; inputs and outputs of the graph keep their names."""
    kept = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    names: dict[str, str] = {}
    for graph in graphs_of(proto.graph):
        for node in graph.node:
            for name in (node.name, *node.input, *node.output):
                _count(name, names, kept)
    for graph in graphs_of(proto.graph):
        for node in graph.node:
            node.name = _renamed(node.name, names, kept)
            node.input[:] = [_renamed(name, names, kept) for name in node.input]
            node.output[:] = [_renamed(name, names, kept) for name in node.output]
        for value in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            value.name = _renamed(value.name, names, kept)
        ordered = sorted((onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in graph.initializer), key=_name)
        del graph.initializer[:]
        graph.initializer.extend(ordered)


def _count(name: str, names: dict[str, str], kept: set[str]) -> None:
    match = _NUMBERED.fullmatch(name)
    if match is not None and name not in kept:
        own = name.removesuffix(match["output"] or "")
        names.setdefault(own, f"{match['stem']}__{len(names)}")


def _renamed(name: str, names: dict[str, str], kept: set[str]) -> str:
    match = _NUMBERED.fullmatch(name)
    if match is None or name in kept:
        return name
    output = match["output"] or ""
    own = name.removesuffix(output)
    return names.get(own, own) + output


def _name(tensor: onnx.TensorProto) -> str:
    return str(tensor.name)
