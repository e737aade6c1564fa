"""Read ONNX files of any operator set from 7 on.

Graphs are converted to the operator set of all variants. Operators that cannot be converted or that onnxruntime lacks are
rejected, and so are inputs and outputs other than tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from accel.backends.onnxruntime_cpu import open_runtime, run_runtime
from convert.graph.emit import BATCH_AXIS, IR_VERSION, OPSET
from convert.graph.maps import class_labels, has_maps, replace_maps
from convert.operator_sets import NEWEST, at_supported_opset, graphs_of, is_supported, nodes_of
from convert.source.feed import Arrays, Runner
from edgewright.errors import ModelError, one_line

LARGEST_MESSAGE = (1 << 31) - (64 << 20)
"""Largest model, in bytes, that protobuf serializes as one message, with room for changes."""

_LOCALE = "C.UTF-8"
_NEWEST_ML = 5
"""The newest version of the operator set for classical models that onnxruntime has."""
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")


def read_onnx(path: Path) -> ir.Model:
    """Return the graph of an ONNX file, as `read_onnx_classifier` does."""
    return read_onnx_classifier(path)[0]


def read_onnx_classifier(path: Path) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the graph of an ONNX file, in an operator set that every variant supports, and the classes that it names.

    Raises:
        ModelError: weights are missing, an operator or the operator set is not supported, or an input or output is not a tensor.
    """
    proto, is_large = _loaded(path)
    classes = class_labels(proto.graph)
    replace_maps(proto.graph)
    _use_installed_locale(proto.graph)
    _check_ends(proto, path)
    _check_operators(proto, path)
    _free_negative_axes(proto.graph)
    if is_large and not is_supported(proto):
        raise ModelError(
            f"{path} must use operator set {OPSET} to {NEWEST}, because its weights exceed 2 GB, which ONNX's converter of "
            f"operator sets cannot hold: export it with opset {OPSET}"
        )
    proto = at_supported_opset(proto, path)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version, proto.domain, proto.doc_string = "edgewright", "", "", ""
    del proto.metadata_props[:]
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model, classes


def open_onnx(path: Path, shapes: Mapping[str, Sequence[int | str]]) -> Runner:
    """Load an ONNX file with onnxruntime; it gives tensors in place of maps from class to probability.

    Args:
        path: the file.
        shapes: shapes of inputs that differ from those in the file, by name.
    """
    runtime = open_runtime(path, content=_content(path, shapes))
    inputs = runtime.get_inputs()

    def run(arrays: Arrays) -> Arrays:
        return run_runtime(runtime, {node.name: array for node, array in zip(inputs, arrays, strict=True)}, path)

    return lambda feed: feed.run(run, fixed_batch=feed.fixed_batch([node.shape for node in inputs]))


def _content(path: Path, shapes: Mapping[str, Sequence[int | str]]) -> bytes | None:
    """Return the graph with tensors in place of maps, and with other shapes; None if it needs no change."""
    proto = onnx.load(path, load_external_data=False)
    if not (shapes or has_maps(proto.graph) or _use_installed_locale(proto.graph)):
        return None
    replace_maps(proto.graph)
    _use_installed_locale(proto.graph)
    if shapes:
        _replace_shapes(proto.graph, shapes)
    raw: bytes = proto.SerializeToString()
    return raw


def _replace_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Give inputs other shapes, and remove the shapes that follow from them."""
    for value in graph.input:
        for axis, size in enumerate(shapes.get(value.name, ())):
            dim = value.type.tensor_type.shape.dim[axis]
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size
    del graph.value_info[:]
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def _loaded(path: Path) -> tuple[onnx.ModelProto, bool]:
    """Return the checked model, and whether its weights are too large for one message and therefore stay in their files."""
    try:
        proto = onnx.load(path, load_external_data=False)
        _check_versions(proto, path)
        is_large = path.stat().st_size + _external_bytes(proto, path.parent) > LARGEST_MESSAGE
        if is_large:
            onnx.checker.check_model(str(path))
        else:
            onnx.load_external_data_for_model(proto, str(path.parent))
            onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, FileNotFoundError, ValueError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {one_line(error)}") from error
    return proto, is_large


def _external_bytes(proto: onnx.ModelProto, folder: Path) -> int:
    """Return the size of the files with the weights; a missing one counts nothing here."""
    locations = {
        entry.value
        for graph in graphs_of(proto.graph)
        for weight in graph.initializer
        for entry in weight.external_data
        if entry.key == "location"
    }
    return sum((folder / name).stat().st_size for name in locations if (folder / name).is_file())


def _check_versions(proto: onnx.ModelProto, path: Path) -> None:
    """Check that the operator sets and the format are not newer than this version of onnx."""
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx": onnx.defs.onnx_opset_version(), "ai.onnx.ml": _NEWEST_ML}
    found = [
        (f"operator set {entry.version} of {entry.domain or 'ai.onnx'}", entry.version, newest.get(entry.domain))
        for entry in proto.opset_import
    ]
    for what, version, limit in [(f"format {proto.ir_version}", proto.ir_version, int(onnx.IR_VERSION)), *found]:
        if limit is not None and version > limit:
            raise ModelError(
                f"{path} uses {what}, but onnx {onnx.__version__} supports {limit} at most: export it with opset {OPSET}, "
                "or install a newer version of onnx and edgewright"
            )


def _check_ends(proto: onnx.ModelProto, path: Path) -> None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    for value in (*inputs, *proto.graph.output):
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{path}: {value.name} must be a tensor; export the model without maps and sequences")


def _use_installed_locale(graph: onnx.GraphProto) -> bool:
    """Give every StringNormalizer of English text the locale C.UTF-8; return whether one was changed.

    It maps the same characters as en_US.UTF-8, the default, which onnxruntime cannot load where it is not installed (containers,
    most devices).
    """
    changed = False
    for node in (node for node in nodes_of(graph) if node.op_type == "StringNormalizer"):
        locale = next((attribute for attribute in node.attribute if attribute.name == "locale"), None)
        if locale is None:
            node.attribute.append(onnx.helper.make_attribute("locale", _LOCALE))
            changed = True
        elif locale.s.lower() in (b"", b"en_us", b"en_us.utf-8", b"en_us.utf8"):
            locale.s = _LOCALE.encode()
            changed = True
    return changed


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
