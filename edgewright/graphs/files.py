"""Files of a graph: a small `graph.onnx`, and its weights in one file for the featurizer and one for the head.

Tensors that training changes (float and quantized tensors, including scalars) are stored in the weights files. Constants from
which shapes are inferred (sizes, axes, indices, scales) are stored in `graph.onnx`. So retraining the head changes `head.weights`
only, and an update transfers only that file. Weights are stored in the order of their first use, so the same model gives the same
bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from edgewright.graphs.bodies import inner_nodes
from edgewright.graphs.lazy_weights import LazyWeight

ALIGNMENT = 64
"""Alignment of tensors in bytes, for vector loads from a mapped file; smaller tensors are aligned to their own size."""

_INLINE = {ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING}
_SHAPED_BY = {"OneHot": (1,), "Range": (0, 1, 2), "Resize": (1, 2), "Upsample": (1,)}
"""Float inputs that determine the output's shape, by operator; runtimes need them in `graph.onnx`."""
_FOLLOWED = {
    "Cast",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Reshape",
    "Concat",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Floor",
    "Ceil",
    "Gather",
}
"""Operators through which shape inference follows a constant."""
_LONGEST_SHAPE = 1024
_LAYERS = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "PRelu", "Gather"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"),
}
"""Operators whose constants are trained."""
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_WEIGHT_FILES = (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)


def write_graph(
    directory: Path, model: ir.Model, is_head: Callable[[ir.Node], bool], *, file_name: str = LayerKind.GRAPH.file_name
) -> None:
    """Write `model` to `file_name`, with each weight in the file of its part; weights of both parts are the featurizer's.

    Lazy weights are computed one at a time, which needs little memory. Afterwards the model refers to the files.

    Raises:
        ModelError: a weight holds NaN or infinity.
    """
    sides = _sides(model.graph, is_head)
    for kind in _WEIGHT_FILES:
        weights = [value for value, side in sides.items() if side is kind]
        if weights:
            _write_weights(directory / kind.file_name, weights)
    proto = ir.to_proto(model)
    _remove_weight_types(proto.graph)
    raw = proto.SerializeToString(deterministic=True)
    with (directory / file_name).open("wb") as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())


def read_graph(path: Path) -> ir.Model:
    """Read a verified `graph.onnx`; weights are read from disk when they are used."""
    return ir.load(path)


def _remove_weight_types(graph: Any) -> None:
    """Remove the types and shapes of weights, which the weights themselves have."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _sides(graph: ir.Graph, is_head: Callable[[ir.Node], bool]) -> dict[ir.Value, LayerKind]:
    """Return the weights file for every external weight, in the order of first use."""
    sides: dict[ir.Value, LayerKind] = {}
    for node in graph:
        kind = LayerKind.HEAD_WEIGHTS if is_head(node) else LayerKind.FEATURIZER_WEIGHTS
        for value in (*node.inputs, *_captured_files(node, graph)):
            if value is None or value.const_value is None or not value.is_initializer():
                continue
            if _is_shape(value, value.const_value.dtype) or _is_zero_point_of_weights(value):
                continue
            if sides.setdefault(value, kind) is not kind:
                sides[value] = LayerKind.FEATURIZER_WEIGHTS
    return sides


def _captured_files(node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """Return the weights that only bodies in `node` may read and that are in a file: they need a place in the new file, too."""
    inner = [value for one in inner_nodes(node) for value in one.inputs if value is not None]
    return [one for one in inner if graph.initializers.get(one.name) is one and isinstance(one.const_value, ir.ExternalTensor)]


def _is_shape(value: ir.Value, dtype: ir.DataType) -> bool:
    """Return true if a constant may determine shapes: an int32 one does, unless it is the bias of a quantized layer."""
    is_bias = any(node.op_type == "DequantizeLinear" for node in value.consumers())
    return dtype in _INLINE or (dtype == ir.DataType.INT32 and not is_bias) or _determines_shape(value)


def _is_zero_point_of_weights(value: ir.Value) -> bool:
    """Return true for the zeros of symmetric weights: they never change, and most are smaller than a reference to a file."""
    uses = value.uses()
    return bool(uses) and all(
        node.op_type == "DequantizeLinear" and place == 2 and node.inputs[0] is not None and node.inputs[0].is_initializer()
        for node, place in uses
    )


def _determines_shape(value: ir.Value) -> bool:
    """Return whether a small constant determines the shape of a result, directly or computed further."""
    if value.const_value is None or value.const_value.size > _LONGEST_SHAPE:
        return False
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses():
            if index in _SHAPED_BY.get(node.op_type, ()):
                return True
            results = [result for result in node.outputs if result not in seen] if node.op_type in _FOLLOWED else []
            constant = all(given is None or given in seen or given.const_value is not None for given in node.inputs)
            pending += results if constant else []
            seen.update(results)
    return False


def _write_weights(path: Path, weights: list[ir.Value]) -> None:
    with path.open("wb") as stream:
        for value in weights:
            tensor = value.const_value
            if tensor is None:
                raise AssertionError(f"{value.name} has no contents")
            stream.write(b"\0" * (-stream.tell() % _alignment(tensor.nbytes)))
            offset = stream.tell()
            _write_tensor(stream, tensor, str(value.name), check=_must_be_finite(value))
            value.const_value = ir.ExternalTensor(
                path.name,
                offset,
                stream.tell() - offset,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                base_dir=path.parent,
            )
        stream.flush()
        os.fsync(stream.fileno())


def _alignment(size_bytes: int) -> int:
    """Return the alignment of a tensor in bytes: a scalar of 4 bytes does not need 64."""
    return min(ALIGNMENT, 1 << max(size_bytes - 1, 0).bit_length())


def _must_be_finite(value: ir.Value) -> Callable[[npt.NDArray[Any]], bool]:
    """Return the check of a constant: weights of layers are finite, others may be infinite (a mask) or NaN (a missing value)."""
    operators = {node.op_type for node in value.consumers()}
    if operators & _LAYERS:
        return lambda part: bool(np.isfinite(part).all())
    if operators & _ARITHMETIC:
        return lambda part: not np.isnan(part).any()
    return lambda _part: True


def _write_tensor(stream: BinaryIO, tensor: ir.TensorProtocol, name: str, *, check: Callable[[npt.NDArray[Any]], bool]) -> None:
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        stream.write(tensor.tobytes())
        return
    for part in _parts(tensor):
        if not check(part):
            raise ModelError(
                f"weight {name} must hold finite numbers, but it holds {'NaN' if np.isnan(part).any() else 'infinity'}: "
                "the training diverged; train the model again"
            )
        stream.write(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes())


def _parts(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[Any]]:
    """Yield a tensor's contents in order, one row at a time if they are permuted, to avoid a copy of the whole tensor."""
    array = tensor.view() if isinstance(tensor, LazyWeight) else tensor.numpy()
    if array.ndim < 2 or array.flags.c_contiguous:
        yield array
    else:
        yield from array
