"""Read ONNX files of any operator set from 7 on.

Older and newer graphs are brought to the operator set that every variant is made in; what onnx's converter cannot bring there,
operators that nobody here knows, and inputs and outputs that are no tensors of numbers, are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.version_converter
import onnx_ir as ir

from convert.graph.emit import IR_VERSION, OPSET
from edgewright.errors import ModelError, one_line

OLDEST = 7
NEWEST = 22
"""The newest that onnxruntime runs in every precision that we make."""
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")


def read_onnx(path: Path) -> ir.Model:
    """Return the graph of an ONNX file, in an operator set that every variant can be made in.

    Raises:
        ModelError: its weights are missing, its operators or their set cannot be used, or an input or output is no tensor of
            numbers.
    """
    proto = _loaded(path)
    _check_ends(proto, path)
    _check_operators(proto, path)
    proto = lifted(proto, path)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version, proto.domain, proto.doc_string = "edgewright", "", "", ""
    del proto.metadata_props[:]
    return ir.from_proto(proto)


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, FileNotFoundError, ValueError) as wrong:
        raise ModelError(f"{path} is no valid ONNX model: {one_line(wrong)}") from wrong
    return proto


def _check_ends(proto: onnx.ModelProto, path: Path) -> None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    for value in (*inputs, *proto.graph.output):
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{path}: {value.name} must be a tensor; export the model without maps and sequences (zipmap off)")

        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            raise ModelError(
                f"{path}: {value.name} must hold numbers, but it holds text: turn text into numbers before the model"
            )


def _check_operators(proto: onnx.ModelProto, path: Path) -> None:
    ours = {function.domain for function in proto.functions}
    strangers = {
        f"{node.op_type} of {node.domain} (node {node.name!r})"
        for node in _nodes(proto.graph)
        if node.domain not in _KNOWN_DOMAINS and node.domain not in ours
    }
    if strangers:
        raise ModelError(
            f"{path} must use operators that onnxruntime knows, but it has {', '.join(sorted(strangers))}: "
            "replace them by standard ones, or save them in the model as ONNX functions"
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, and those of the graphs inside it (branches, loops)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def lifted(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return `proto` in an operator set that every variant can be made in."""
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if version in range(OPSET, NEWEST + 1):
        return proto
    if version < OLDEST:
        raise ModelError(f"{path} must use operator set {OLDEST} or newer, but it uses {version}: export it with opset {OPSET}")
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError) as wrong:
        raise ModelError(
            f"{path} cannot be brought from operator set {version} to {OPSET}, export it with opset {OPSET}: {one_line(wrong)}"
        ) from wrong
