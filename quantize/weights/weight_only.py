"""Weights that are stored as int8 and computed with in float32: a quarter of the bytes, the speed of float32.

    int8 -> Cast -> Mul(scale) -> weight               a runtime folds it once, when it loads the graph
    int8 -> Gather -> Cast -> Mul(scale) -> row        a table of embeddings stays int8 in memory too

A DequantizeLinear would be expanded on every run: onnxruntime does not fold it, because it looks for integer kernels around it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantize.weights.editing import GraphEditor, numbers_of, shape_of

FEWEST_WEIGHTS = 1024
LARGEST = 127

Float32 = npt.NDArray[np.float32]

_RECURRENT = {"LSTM", "GRU", "RNN"}


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight to store as int8, and the axes that share a scale."""

    weight: ir.Value
    summed: tuple[int, ...]
    """The axes that a product sums over: they have one scale."""

    def scales(self) -> Float32:
        """Return the scales, of the weight's rank."""
        largest = np.abs(numbers_of(self.weight)).max(axis=self.summed, keepdims=True)
        scales: Float32 = np.where(largest >= LARGEST * np.finfo(np.float32).tiny, largest / LARGEST, 1.0).astype(np.float32)
        return scales

    def elements(self) -> npt.NDArray[np.int8]:
        """Return the integers."""
        elements: npt.NDArray[np.int8] = np.rint(numbers_of(self.weight) / self.scales()).astype(np.int8)
        return elements


def store_as_int8(graph: ir.Graph, operators: Collection[str] | None = None) -> list[str]:
    """Store the weights of `graph` that only layers read as int8, or only those of `operators`; return their names."""
    stored = [one for one in _storable(graph) if operators is None or _operators(one.weight) <= set(operators)]
    for one in stored:
        _write(graph, one)
    return [str(one.weight.name) for one in stored]


def _operators(weight: ir.Value) -> set[str]:
    return {user.op_type for user in weight.consumers()}


def _storable(graph: ir.Graph) -> Iterator[StoredWeight]:
    for weight in list(graph.initializers.values()):
        if weight.const_value is None or weight.dtype is not ir.DataType.FLOAT or weight.is_graph_output():
            continue
        if len(shape_of(weight)) < 2 or np.prod(shape_of(weight)) < FEWEST_WEIGHTS:
            continue
        axes = [_summed(user, place, len(shape_of(weight))) for user, place in weight.uses()]
        if axes and axes[0] is not None and None not in axes:
            yield StoredWeight(weight, axes[0])


def _summed(node: ir.Node, place: int, rank: int) -> tuple[int, ...] | None:
    """Return the axes of a weight at an input of `node` that share a scale; None if the node is no layer."""
    if node.domain != "":
        return None
    if node.op_type in ("Conv", "ConvTranspose") and place == 1:
        kept = 0 if node.op_type == "Conv" else 1
        return tuple(axis for axis in range(rank) if axis != kept)
    if node.op_type == "MatMul":
        return (rank - 2,) if place == 1 else (rank - 1,)
    if node.op_type == "Gemm" and place < 2:
        transposed = node.attributes.get_int("transB" if place else "transA", 0)
        return (1,) if bool(transposed) is bool(place) else (0,)
    if node.op_type in _RECURRENT and place in (1, 2):
        return (2,)
    if node.op_type == "Gather" and place == 0 and rank == 2 and node.attributes.get_int("axis", 0) == 0:
        return (0,)
    return None


def _write(graph: ir.Graph, stored: StoredWeight) -> None:
    weight, shape, name = stored.weight, shape_of(stored.weight), str(stored.weight.name)
    editor = GraphEditor(graph, graph[0], same_part=False)
    elements = editor.constant(f"{name}/q", shape, stored.elements, "int8")
    by_column = stored.summed == (0,) and len(shape) == 2
    sizes = shape[1:] if by_column else [1 if axis in stored.summed else size for axis, size in enumerate(shape)]
    scales = editor.constant(f"{name}/s", sizes, stored.scales)
    for gather in [user for user in weight.consumers() if by_column and user.op_type == "Gather" and user.graph is graph]:
        _gather(graph, gather, elements, scales)
    if weight.consumers():
        (floats,) = editor.add("Cast", [elements], f"{name}/floats", {"to": int(ir.DataType.FLOAT)})
        (expanded,) = editor.add("Mul", [floats, scales], f"{name}/expanded")
        weight.replace_all_uses_with(expanded)


def _gather(graph: ir.Graph, gather: ir.Node, elements: ir.Value, scales: ir.Value) -> None:
    """Expand only the rows that are read."""
    editor, name = GraphEditor(graph, gather), str(gather.name)
    (rows,) = editor.add("Gather", [elements, *gather.inputs[1:]], f"{name}/rows", {"axis": 0})
    (floats,) = editor.add("Cast", [rows], f"{name}/floats", {"to": int(ir.DataType.FLOAT)})
    editor.replace(editor.add("Mul", [floats, scales], f"{name}/expanded"))
