"""Files of a graph: a small `graph.onnx`, and its weights in one file for the featurizer and one for the head.

Tensors that training changes (float and quantized tensors, including scalars) are stored in the weights files, shapes and axes in
`graph.onnx`. So retraining the head changes `head.weights` only, and an update transfers only that file. Weights are stored in
the order of their first use, so the same model gives the same bytes.
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
from edgewright.graphs.lazy_weights import LazyWeight

ALIGNMENT = 64
"""Alignment of tensors in bytes, for vector loads from a mapped file; smaller tensors are aligned to their own size."""

_INLINE = {ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING}
_SHAPED_BY = {"Resize": 1, "Upsample": 1, "Range": 0}
"""Operators with float inputs that determine the output's shape, from this index on; runtimes need them in `graph.onnx`."""
_MASKING = {"Where", "Add", "Sub", "Max", "Min", "Clip", "Pad", "Expand", "Concat", "ScatterND", "Trilu", "Slice", "Cast"}
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
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is None or not value.is_initializer():
                continue
            if _is_shape(value, value.const_value.dtype) or index >= _SHAPED_BY.get(node.op_type, len(node.inputs)):
                continue
            if sides.setdefault(value, kind) is not kind:
                sides[value] = LayerKind.FEATURIZER_WEIGHTS
    return sides


def _is_shape(value: ir.Value, dtype: ir.DataType) -> bool:
    """Return true if a constant may determine shapes: an int32 one does, unless it is the bias of a quantized layer."""
    is_bias = any(node.op_type == "DequantizeLinear" for node in value.consumers())
    return dtype in _INLINE or (dtype == ir.DataType.INT32 and not is_bias)


def _write_weights(path: Path, weights: list[ir.Value]) -> None:
    with path.open("wb") as stream:
        for value in weights:
            tensor = value.const_value
            if tensor is None:
                raise AssertionError(f"{value.name} has no contents")
            stream.write(b"\0" * (-stream.tell() % _alignment(tensor.nbytes)))
            offset = stream.tell()
            _write_tensor(stream, tensor, str(value.name), is_mask=_is_mask(value))
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


def _is_mask(value: ir.Value) -> bool:
    """Return whether a constant is only selected or added, like an attention mask, whose infinities are intended."""
    return all(node.op_type in _MASKING for node in value.consumers())


def _write_tensor(stream: BinaryIO, tensor: ir.TensorProtocol, name: str, *, is_mask: bool) -> None:
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        stream.write(tensor.tobytes())
        return
    for part in _parts(tensor):
        if np.isnan(part).any() or (not is_mask and not np.isfinite(part).all()):
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
