"""Find how a graph uses its inputs, so that generated samples make sense: tables, masks, splits of trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_SHAPE_OPERATORS = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"}
"""Operators that keep the values of an index tensor."""
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_FEW = 8
"""Numbers of a constant that are taken as sentinels."""
_TRUTH = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Where", "And", "Or"}


@dataclass(frozen=True, slots=True)
class InputUse:
    """The use of one input."""

    table_rows: int | None = None
    """Row count of the smallest table that it indexes (token ids of an embedding)."""
    mask: bool = False
    """It holds zeros and ones."""
    splits: Mapping[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Thresholds of trees, by feature."""
    sentinels: tuple[float, ...] = ()
    """Numbers that the graph replaces."""


def input_uses(graph: ir.Graph) -> dict[str, InputUse]:
    """Return the use of every input."""
    return {str(value.name): _use(value) for value in graph.inputs}


def _use(value: ir.Value) -> InputUse:
    rows = list(_tables_indexed_by(value))
    return InputUse(
        table_rows=min(rows) if rows else None,
        mask=not rows and _is_mask(value),
        splits=_splits(value),
        sentinels=tuple(_sentinels(value)),
    )


def _tables_indexed_by(value: ir.Value) -> Iterator[int]:
    """Yield the row counts of the tables that `value` indexes, directly or reshaped."""
    for node, index in value.uses():
        if node.op_type in _SHAPE_OPERATORS and index == 0:
            yield from _tables_indexed_by(node.outputs[0])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        table = node.inputs[0]
        if node.op_type == "Gather" and index == 1 and axis == 0 and table is not None and table.shape is not None:
            size = table.shape[0]
            if isinstance(size, int):
                yield size


def _is_mask(value: ir.Value) -> bool:
    """Return True for an input that is called a mask, or an integer one that is only compared or used as a condition."""
    if "mask" in str(value.name).lower():
        return True
    integer = value.dtype is not None and value.dtype.is_integer()
    operators = {node.op_type for node in _readers(value)}
    return integer and bool(operators) and operators <= _TRUTH


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that compute with a value, directly or reshaped."""
    for node, index in value.uses():
        keeps_values = index == 0 if node.op_type in _SHAPE_OPERATORS else node.op_type == "Where" and index > 0
        if keeps_values:
            yield from _readers(node.outputs[0])
        else:
            yield node


def _splits(value: ir.Value) -> dict[int, npt.NDArray[np.float32]]:
    """Return the thresholds of the trees that read an input, by feature."""
    thresholds: dict[int, list[float]] = {}
    for node in _readers(value):
        if node.op_type in _TREES:
            modes = _attribute(node, "nodes_modes")
            pairs = zip(modes, _attribute(node, "nodes_featureids"), _attribute(node, "nodes_values"), strict=True)
            for mode, feature, threshold in pairs:
                if mode not in ("LEAF", b"LEAF") and np.isfinite(threshold):
                    thresholds.setdefault(int(feature), []).append(float(threshold))
    return {feature: np.unique(np.array(found, np.float32)) for feature, found in sorted(thresholds.items())}


def _sentinels(value: ir.Value) -> Iterator[float]:
    """Yield the numbers that an Imputer replaces, or that are compared with."""
    for node in _readers(value):
        if node.op_type == "Equal" and value.dtype is not None and value.dtype.is_floating_point():
            constants = [other.const_value for other in node.inputs if other is not None and other.const_value is not None]
            yield from (float(number) for constant in constants for number in constant.numpy().ravel()[:_FEW])
        if node.op_type == "Imputer" and "replaced_value_float" in node.attributes:
            replaced = node.attributes["replaced_value_float"].as_float()
            if np.isfinite(replaced):
                yield replaced


def _attribute(node: ir.Node, name: str) -> Any:
    return node.attributes[name].value
