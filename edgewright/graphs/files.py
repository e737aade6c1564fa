"""A graph on disk: a small `graph.onnx` and its weights in two files beside it, one for the featurizer and one for the head.

Numbers that training changes (float and quantized tensors, also single scales) always lie outside, shapes and axes inside. So
training the head again changes `head.weights` and nothing else, and an update moves only that. The order in the files is the
order of use, so the same model gives the same bytes.
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
"""Bytes; where a tensor may start, so that vector loads from a mapped file are aligned; a smaller one starts at its own size."""

_INLINE = {ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING}
_SHAPED_BY = {"Resize": 1, "Upsample": 1, "Range": 0}
"""Operators whose output's shape depends on floats, and the first of those inputs: runtimes must see them in the graph itself."""
_MASKING = {"Where", "Add", "Sub", "Max", "Min", "Clip", "Pad", "Expand", "Concat", "ScatterND", "Trilu", "Slice", "Cast"}
_WEIGHT_FILES = (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)


def write_graph(directory: Path, model: ir.Model, is_head: Callable[[ir.Node], bool]) -> None:
    """Write `model` into `directory`, each weight to the file of the side that uses it; what both use is the featurizer's.

    Weights are read one at a time, so a lazy model needs little memory; afterwards the model's weights are those on disk.

    Raises:
        ModelError: a weight holds NaN or infinity.
    """
    sides = _sides(model.graph, is_head)
    for kind in _WEIGHT_FILES:
        weights = [value for value, side in sides.items() if side is kind]
        if weights:
            _write_weights(directory / kind.file_name, weights)
    proto = ir.to_proto(model)
    _forget_what_weights_say(proto.graph)
    raw = proto.SerializeToString(deterministic=True)
    with (directory / LayerKind.GRAPH.file_name).open("wb") as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())


def read_graph(path: Path) -> ir.Model:
    """Read a `graph.onnx` that was verified before; its weights stay on disk until they are used."""
    return ir.load(path)


def _forget_what_weights_say(graph: Any) -> None:
    """Take out types and shapes of weights: the weights themselves have them."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _sides(graph: ir.Graph, is_head: Callable[[ir.Node], bool]) -> dict[ir.Value, LayerKind]:
    """Return the file of every weight that lies outside, in the order of first use."""
    sides: dict[ir.Value, LayerKind] = {}
    for node in graph:
        kind = LayerKind.HEAD_WEIGHTS if is_head(node) else LayerKind.FEATURIZER_WEIGHTS
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is None or not value.is_initializer():
                continue
            if value.const_value.dtype in _INLINE or place >= _SHAPED_BY.get(node.op_type, len(node.inputs)):
                continue
            if sides.setdefault(value, kind) is not kind:
                sides[value] = LayerKind.FEATURIZER_WEIGHTS
    return sides


def _write_weights(path: Path, weights: list[ir.Value]) -> None:
    with path.open("wb") as stream:
        for value in weights:
            tensor = value.const_value
            if tensor is None:
                raise AssertionError(f"{value.name} has no numbers")
            stream.write(b"\0" * (-stream.tell() % _alignment(tensor.nbytes)))
            offset = stream.tell()
            _write_numbers(stream, tensor, str(value.name), masks=_only_masks(value))
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
    """Return where a tensor may start: a scale of four bytes need not take a line of 64."""
    return min(ALIGNMENT, 1 << max(size_bytes - 1, 0).bit_length())


def _only_masks(value: ir.Value) -> bool:
    """Tell whether a constant is only chosen or added, as the infinities of an attention's mask are: those are meant."""
    return all(node.op_type in _MASKING for node in value.consumers())


def _write_numbers(stream: BinaryIO, tensor: ir.TensorProtocol, name: str, *, masks: bool) -> None:
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        stream.write(tensor.tobytes())
        return
    for part in _parts(tensor):
        if np.isnan(part).any() or (not masks and not np.isfinite(part).all()):
            raise ModelError(
                f"weight {name} must hold finite numbers, but it holds {'NaN' if np.isnan(part).any() else 'infinity'}: "
                "the training diverged; train the model again"
            )
        stream.write(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes())


def _parts(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[Any]]:
    """Yield a tensor's numbers in order, a row at a time, so that a large permuted matrix is never copied whole."""
    numbers = tensor.view() if isinstance(tensor, LazyWeight) else tensor.numpy()
    if numbers.ndim < 2 or numbers.flags.c_contiguous:
        yield numbers
    else:
        yield from numbers
