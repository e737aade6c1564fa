"""Read ONNX files of any operator set from 7 on.

Graphs are converted to the operator set of all variants. Operators that cannot be converted or that onnxruntime lacks are
rejected, and so are inputs and outputs other than numeric tensors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from convert.graph.emit import BATCH_AXIS, IR_VERSION
from convert.graph.maps import has_maps, replace_maps
from convert.operator_sets import at_supported_opset, nodes_of
from edgewright.errors import ModelError, one_line

_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")


def read_onnx(path: Path) -> ir.Model:
    """Return the graph of an ONNX file, in an operator set that every variant supports.

    Raises:
        ModelError: weights are missing, an operator or the operator set is not supported, or an input or output is not a
            numeric tensor.
    """
    proto = _loaded(path)
    replace_maps(proto.graph)
    _check_ends(proto, path)
    _check_operators(proto, path)
    _free_negative_axes(proto.graph)
    proto = at_supported_opset(proto, path)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version, proto.domain, proto.doc_string = "edgewright", "", "", ""
    del proto.metadata_props[:]
    return ir.from_proto(proto)


@contextmanager
def with_tensor_outputs(path: Path) -> Iterator[Path]:
    """Yield the ONNX file at `path`, or a temporary copy that gives tensors in place of maps from class to probability."""
    if not has_maps(onnx.load(path, load_external_data=False).graph):
        yield path
        return
    proto = onnx.load(path)
    replace_maps(proto.graph)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        onnx.save(proto, Path(folder) / path.name)
        yield Path(folder) / path.name


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, FileNotFoundError, ValueError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {one_line(error)}") from error
    return proto


def _check_ends(proto: onnx.ModelProto, path: Path) -> None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    for value in (*inputs, *proto.graph.output):
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{path}: {value.name} must be a tensor; export the model without maps and sequences")
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            raise ModelError(
                f"{path}: {value.name} must hold numbers, but it holds text: encode text as numbers before the model"
            )


def _free_negative_axes(graph: onnx.GraphProto) -> None:
    """Name the axes that have a negative size, with which Paddle2ONNX marks free axes."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value < 0:
                size.dim_param = f"{value.name}_axis{axis}" if axis else BATCH_AXIS


def _check_operators(proto: onnx.ModelProto, path: Path) -> None:
    model_domains = {function.domain for function in proto.functions}
    unknown = {
        f"{node.op_type} of {node.domain} (node {node.name!r})"
        for node in nodes_of(proto.graph)
        if node.domain not in _KNOWN_DOMAINS and node.domain not in model_domains
    }
    if unknown:
        raise ModelError(
            f"{path} must use operators that onnxruntime has, but it uses {', '.join(sorted(unknown))}: "
            "replace them by standard ones, or define them in the model as ONNX functions"
        )
