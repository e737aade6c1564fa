"""Convert graphs between ONNX's operator sets, with repairs where onnx's version converter does not keep the meaning.

functions           inlined, because the converter drops the model's own ones and has no older form of standard ones
Hardmax             written for two axes, because sets below 13 flatten their input
Resize of set 10    split into enlarging and reducing, because onnxruntime rounds them differently there
Upsample, Resize    sampled asymmetrically, the only definition below set 11
Pad below set 11    without the value that other modes than constant ignore
GroupNormalization  of sets 18 to 20: scale and bias repeated for the channels of each group
Scan of set 8       rejected: it has another meaning
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from onnx import helper, numpy_helper

from convert.graph.emit import OPSET
from edgewright.errors import ModelError, one_line
from edgewright.steps import step

OLDEST = 7
NEWEST = 22
"""The newest operator set that onnxruntime runs in every precision of our variants."""
_SCAN_WITHOUT_BATCH = 9
_COORDINATES = 11
"""The first set in which Resize names its coordinates."""
_ONE_AXIS = 13
"""The first set in which Hardmax takes one axis."""
_PER_CHANNEL = 21
"""The first set in which GroupNormalization has a scale and a bias per channel, not per group."""
_UP, _DOWN = "/resize-10-up", "/resize-10-down"


def at_supported_opset(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return `proto`, converted to an operator set that every variant supports.

    Raises:
        ModelError: the operator set is too old, or an operator cannot be converted.
    """
    if is_supported(proto):
        return proto
    version = _version(proto)
    if version < OLDEST:
        raise ModelError(f"{path} must use operator set {OLDEST} or newer, but it uses {version}: export it with opset {OPSET}")
    try:
        return _converted(_inlined(proto, version), version)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be converted from operator set {version} to {OPSET}, export it with opset {OPSET}: {one_line(error)}"
        ) from error


def is_supported(proto: onnx.ModelProto) -> bool:
    """Return whether every variant supports the operator set of the model as it is."""
    return _version(proto) in range(OPSET, NEWEST + 1)


def _version(proto: onnx.ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs (branches, loops)."""
    for one in graphs_of(graph):
        yield from one.node


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g)


def _inlined(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Inline the model's own functions, and standard operators that our operator set lacks but that are defined by others."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto, convert_version=True)
    newer = sorted(
        {node.op_type for node in nodes_of(proto.graph) if node.domain == "" and _is_new_function(node.op_type, version)}
    )
    if not newer:
        return proto
    _state_defaults(proto, newer, version)
    typed = _typed(proto)
    return onnx.inliner.inline_selected_functions(typed, [("", name) for name in newer], inline_schema_functions=True)


def _state_defaults(proto: onnx.ModelProto, operators: Sequence[str], version: int) -> None:
    """Write the default attributes of operators into their nodes: the inliner leaves them out of what it inserts."""
    for node in nodes_of(proto.graph):
        if node.domain in ("", "ai.onnx") and node.op_type in operators:
            present = {attribute.name for attribute in node.attribute}
            for name, attribute in onnx.defs.get_schema(node.op_type, version, "").attributes.items():
                if name not in present and attribute.default_value.name:
                    node.attribute.append(attribute.default_value)


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types of its weights and results stated, which the inliner needs and does not infer."""
    typed = onnx.shape_inference.infer_shapes(proto)
    for graph in graphs_of(typed.graph):
        stated = {value.name for value in (*graph.input, *graph.value_info)}
        graph.value_info.extend(
            helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
            for weight in graph.initializer
            if weight.name not in stated
        )
    return typed


def _is_new_function(operator: str, version: int) -> bool:
    if onnx.defs.has(operator, OPSET, "") or not onnx.defs.has(operator, version, ""):
        return False
    schema: Any = onnx.defs.get_schema(operator, version, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


@step("the conversion of operator sets by onnx")
def _converted(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    operators = {node.op_type for node in nodes_of(proto.graph) if node.domain in ("", "ai.onnx")}
    if version < _SCAN_WITHOUT_BATCH and "Scan" in operators:
        raise ValueError("Scan of operator set 8 has a batch axis, which later sets lack")
    if version < _ONE_AXIS and "Hardmax" in operators:
        _rewrite(proto, "Hardmax", _flattened)
    if version < _COORDINATES and "Resize" in operators:
        _rewrite(proto, "Resize", _in_two_directions)
    if version < _COORDINATES and "Pad" in operators:
        _rewrite(proto, "Pad", _without_unused_value)
    if version < _PER_CHANNEL and "GroupNormalization" in operators:
        _rewrite(proto, "GroupNormalization", _per_channel)
    proto = onnx.version_converter.convert_version(proto, OPSET)
    if version < _COORDINATES:
        for node in nodes_of(proto.graph):
            if node.op_type == "Resize":
                _sample_asymmetrically(node)
    return proto


Rewrite = Callable[[onnx.GraphProto, onnx.NodeProto], list[onnx.NodeProto]]


def _rewrite(proto: onnx.ModelProto, operator: str, rewritten: Rewrite) -> None:
    """Replace each node of an operator, in the graph and its subgraphs, by the nodes that `rewritten` returns."""
    for graph in reversed(list(graphs_of(proto.graph))):  # subgraphs first, because the nodes that hold them are copied
        nodes = [one for node in graph.node for one in (rewritten(graph, node) if node.op_type == operator else [node])]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)


def _flattened(_graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return Hardmax of a matrix: sets below 13 join the axes before `axis`, and those from `axis` on."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    source, result = node.input[0], node.output[0]
    shape, flat, hard = (f"{result}/{part}" for part in ("shape", "flat", "hard"))
    return [
        helper.make_node("Shape", [source], [shape], name=shape),
        helper.make_node("Flatten", [source], [flat], name=flat, axis=axis),
        helper.make_node("Hardmax", [flat], [hard], name=node.name, axis=1),
        helper.make_node("Reshape", [hard, shape], [result], name=f"{result}/reshaped"),
    ]


def _without_unused_value(_graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return Pad without the value that its mode does not use: the version converter keeps it as an unknown attribute."""
    constant = all(attribute.s == b"constant" for attribute in node.attribute if attribute.name == "mode")
    kept = [attribute for attribute in node.attribute if constant or attribute.name != "value"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return [node]


def _per_channel(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return GroupNormalization with its scale and bias repeated for every channel of a group."""
    groups = next(attribute.i for attribute in node.attribute if attribute.name == "num_groups")
    known = _constant(graph, node.input[1])
    if known is not None and known.size != groups:  # some exporters already write one value per channel
        return [node]
    result = node.output[0]
    one, count, column, flat, channels, both, repeats = (
        f"{result}/{part}" for part in ("one", "count", "column", "flat", "channels", "both", "repeats")
    )
    constants = {one: [1], count: [1, groups], column: [groups, 1], flat: [-1]}
    nodes = [
        *(helper.make_node("Constant", [], [name], name=name, value_ints=value) for name, value in constants.items()),
        helper.make_node("Shape", [node.input[0]], [channels], name=channels, start=1, end=2),
        helper.make_node("Concat", [one, channels], [both], name=both, axis=0),
        helper.make_node("Div", [both, count], [repeats], name=repeats),
    ]
    for place, name in ((1, f"{result}/scale"), (2, f"{result}/bias")):
        nodes += [
            helper.make_node("Reshape", [node.input[place], column], [f"{name}/column"], name=f"{name}/column"),
            helper.make_node("Tile", [f"{name}/column", repeats], [f"{name}/rows"], name=f"{name}/rows"),
            helper.make_node("Reshape", [f"{name}/rows", flat], [name], name=name),
        ]
        node.input[place] = name
    return [*nodes, node]


def _in_two_directions(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return Resize of set 10 with one direction per node: onnxruntime rounds down where it enlarges, and up where it reduces."""
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"nearest")
    if mode != b"nearest":
        return [node]
    source, scales, result = node.input[0], node.input[1], node.output[0]
    known = _constant(graph, scales)
    if known is not None and (known >= 1).all():
        return [_resize(source, scales, result, node.name + _UP)]
    if known is not None and (known <= 1).all():
        return [_resize(source, scales, result, node.name + _DOWN)]
    one, up, down, middle = (f"{result}/{part}" for part in ("one", "up", "down", "middle"))
    unit = numpy_helper.from_array(np.ones(1, np.float32), one)
    return [
        helper.make_node("Constant", [], [one], name=one, value=unit),
        helper.make_node("Max", [scales, one], [up], name=up),
        helper.make_node("Min", [scales, one], [down], name=down),
        _resize(source, up, middle, node.name + _UP),
        _resize(middle, down, result, node.name + _DOWN),
    ]


def _resize(source: str, scales: str, result: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Resize", [source, scales], [result], name=name, mode="nearest")


def _constant(graph: onnx.GraphProto, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    for tensor in graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output and node.attribute[0].name == "value":
            return numpy_helper.to_array(node.attribute[0].t)
    return None


def _sample_asymmetrically(node: onnx.NodeProto) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in ("coordinate_transformation_mode", "nearest_mode")]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    if all(attribute.s == b"nearest" for attribute in kept if attribute.name == "mode"):
        node.attribute.append(helper.make_attribute("nearest_mode", "ceil" if node.name.endswith(_DOWN) else "floor"))
