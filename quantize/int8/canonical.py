"""The form of a float graph that onnxruntime's quantizer handles correctly; every step keeps the results.

gemm      alpha and beta are folded into weight and bias, and a transposed first input becomes a Transpose: the quantizer
          multiplies the bias by beta for integers only, and its kernel reads a bias of one dimension
sharing   every layer has a bias of its own: the quantizer copies a shared one under a name that may exist already; a weight is
          shared only by layers that quantize it along the same axis
names     no tensor has a name that the quantizer gives to its own (`x_scale`, `x_QuantizeLinear_Output`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

_ADDED_SUFFIXES = (
    "_scale",
    "_zero_point",
    "_quantized",
    "_QuantizeLinear",
    "_QuantizeLinear_Input",
    "_QuantizeLinear_Output",
    "_DequantizeLinear",
    "_DequantizeLinear_Output",
)
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def canonicalize(model: onnx.ModelProto) -> None:
    """Bring `model` (with embedded weights) into this form, in place; names of nodes and of inputs and outputs are unchanged."""
    _rename_reserved(model.graph)
    graph = _Graph(model.graph)
    for node in list(model.graph.node):
        if node.op_type == "Gemm":
            graph.simplify_gemm(node)
    for node in model.graph.node:
        if node.op_type in _LAYERS:
            graph.own_constants(node)
    graph.remove_unused()


class _Graph:
    """A graph whose weights can be replaced for a single node."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self._proto = proto
        self._tensors = {tensor.name: tensor for tensor in proto.initializer}
        self._names = _all_names(proto)
        self._uses = Counter(name for node in proto.node for name in node.input)

    def simplify_gemm(self, node: onnx.NodeProto) -> None:
        """Fold alpha and beta, and give the bias one dimension; a factor of a computed tensor becomes a Mul before the node."""
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        self._scale(node, 1 if node.input[1] in self._tensors else 0, attributes.get("alpha", 1.0))
        if len(node.input) > 2 and node.input[2]:
            self._fold_beta(node, attributes.get("beta", 1.0))
        if attributes.get("transA"):
            self._insert_before(node, 0, "Transpose")
        kept = [one for one in node.attribute if one.name == "transB"]
        del node.attribute[:]
        node.attribute.extend(kept)

    def own_constants(self, node: onnx.NodeProto) -> None:
        """Give a layer a bias of its own, and a weight of its own unless every user quantizes it in the same way."""
        for place, name in enumerate(node.input):
            tensor = self._tensors.get(name)
            if tensor is not None and place > 0 and self._uses[name] > 1 and (place > 1 or len(self._forms(name)) > 1):
                self._replace(node, place, numpy_helper.to_array(tensor))

    def _forms(self, name: str) -> set[object]:
        """Return the ways in which the users of a weight read it: as channels of which axis, or as an operand."""
        users = [(node, place) for node in self._proto.node for place, used in enumerate(node.input) if used == name]
        return {
            (node.op_type, place, *(one.i for one in node.attribute if one.name in ("transB", "group"))) for node, place in users
        }

    def remove_unused(self) -> None:
        """Remove the weights that no node uses any more."""
        used = {name for node in _all_nodes(self._proto.node) for name in node.input} | {one.name for one in self._proto.output}
        kept = [tensor for tensor in self._proto.initializer if tensor.name in used]
        if len(kept) < len(self._proto.initializer):
            copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
            del self._proto.initializer[:]
            self._proto.initializer.extend(copies)

    def _fold_beta(self, node: onnx.NodeProto, beta: float) -> None:
        if beta == 0:
            del node.input[2:]
            return
        self._scale(node, 2, beta)
        weight, bias = self._tensors.get(node.input[1]), self._tensors.get(node.input[2])
        transposed = any(one.name == "transB" and one.i for one in node.attribute)
        channels = None if weight is None else weight.dims[0 if transposed else 1]
        by_channel = bias is not None and all(size == 1 for size in bias.dims[:-1]) and [*bias.dims][-1:] in ([], [1], [channels])
        if bias is None or channels is None or not by_channel:
            self._add_after(node)
        elif [*bias.dims] != [channels]:
            self._replace(node, 2, np.array(np.broadcast_to(numpy_helper.to_array(bias).reshape(-1), channels)))

    def _add_after(self, node: onnx.NodeProto) -> None:
        """Add a bias that is computed, or that differs by row, with a node of its own."""
        name = self._fresh(f"{node.output[0]}/unbiased")
        added = helper.make_node("Add", [name, node.input[2]], [node.output[0]], name=self._fresh(f"{node.name}/bias"))
        self._proto.node.insert(self._place(node) + 1, added)
        node.output[0] = name
        del node.input[2:]

    def _scale(self, node: onnx.NodeProto, place: int, factor: float) -> None:
        if factor == 1.0:
            return
        tensor = self._tensors.get(node.input[place])
        if tensor is not None:
            numbers = numpy_helper.to_array(tensor)
            self._replace(node, place, (numbers * factor).astype(numbers.dtype))
            return
        constant = self._fresh(f"{node.name}/factor")
        self._add(numpy_helper.from_array(np.array(factor, np.float32), constant))
        self._insert_before(node, place, "Mul", constant)

    def _replace(self, node: onnx.NodeProto, place: int, numbers: npt.NDArray[Any]) -> None:
        name = self._fresh(f"{node.input[place]}/{node.name}")
        self._add(numpy_helper.from_array(np.ascontiguousarray(numbers), name))
        self._uses[node.input[place]] -= 1
        self._uses[name] += 1
        node.input[place] = name

    def _insert_before(self, node: onnx.NodeProto, place: int, operator: str, *others: str) -> None:
        name = self._fresh(f"{node.name}/{operator}")
        added = helper.make_node(operator, [node.input[place], *others], [name], name=name)
        if operator == "Transpose":
            added.attribute.append(helper.make_attribute("perm", [1, 0]))
        self._proto.node.insert(self._place(node), added)
        node.input[place] = name

    def _place(self, node: onnx.NodeProto) -> int:
        return next(index for index, one in enumerate(self._proto.node) if one.output[0] == node.output[0])

    def _add(self, tensor: onnx.TensorProto) -> None:
        self._proto.initializer.append(tensor)
        self._tensors[tensor.name] = self._proto.initializer[-1]

    def _fresh(self, name: str) -> str:
        return _fresh(name, self._names)


def _fresh(name: str, names: set[str]) -> str:
    """Return `name`, with a number if it is among `names`, and add it to them."""
    free = next(one for one in (name, *(f"{name}/{number}" for number in range(len(names) + 1))) if one not in names)
    names.add(free)
    return free


def _rename_reserved(proto: onnx.GraphProto) -> None:
    """Rename the inner tensors whose names end as those that the quantizer adds."""
    graphs = [proto, *_bodies(proto.node)]
    fixed = {one.name for graph in graphs for one in (*graph.input, *graph.output)}
    fixed |= {tensor.name for graph in graphs[1:] for tensor in graph.initializer}
    names = _all_names(proto)
    renamed = {name: _fresh(f"{name}/own", names) for name in sorted(names - fixed) if name.endswith(_ADDED_SUFFIXES)}
    for node in _all_nodes(proto.node):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for named in (*proto.initializer, *proto.value_info):
        named.name = renamed.get(named.name, named.name)


def _bodies(nodes: Iterable[onnx.NodeProto]) -> list[onnx.GraphProto]:
    """Return the graphs that `nodes` hold, and those that their nodes hold."""
    direct = [graph for node in nodes for one in node.attribute for graph in ([one.g] if one.HasField("g") else one.graphs)]
    return [*direct, *(inner for graph in direct for inner in _bodies(graph.node))]


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [*nodes, *(node for graph in _bodies(nodes) for node in graph.node)]


def _all_names(proto: onnx.GraphProto) -> set[str]:
    tensors = {name for node in _all_nodes(proto.node) for name in (*node.input, *node.output) if name}
    return tensors | {one.name for one in (*proto.initializer, *proto.input, *proto.output)}
