"""Read ONNX files of any operator set from 7 on.

Older graphs are converted up to the operator set that every variant is made in; what onnx's converter cannot lift, and outputs
that are no tensors, are told.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.version_converter
import onnx_ir as ir

from convert.emit import IR_VERSION, OPSET
from edgewright.errors import ModelError

OLDEST = 7
NEWEST = 22
"""The newest that onnxruntime runs in every precision that we make."""


def read_onnx(path: Path) -> ir.Model:
    """Return the graph of an ONNX file, in an operator set that every variant can be made in.

    Raises:
        ModelError: its weights are missing, its operator set is out of range, or an output is no tensor.
    """
    proto = _loaded(path)
    _check_ends(proto, path)
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
        raise ModelError(f"{path} is no valid ONNX model: {_short(wrong)}") from wrong
    return proto


def _check_ends(proto: onnx.ModelProto, path: Path) -> None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    for value in (*inputs, *proto.graph.output):
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{path}: {value.name} must be a tensor; export the model without maps and sequences (zipmap off)")


def lifted(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if version in range(OPSET, NEWEST + 1):
        return proto
    if not OLDEST <= version < OPSET:
        raise ModelError(
            f"{path} must use operator set {OLDEST} to {NEWEST}, but it uses {version}: export it with opset {OPSET}"
        )
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError) as wrong:
        raise ModelError(f"{path} cannot be lifted from operator set {version} to {OPSET}: {_short(wrong)}") from wrong


def _short(wrong: Exception) -> str:
    return " ".join(str(wrong).split())[:200]
