"""Check inputs that OpenVINO's kernels accept although the graph does not allow them.

For axes of free size, the kernels compute without comparing sizes: a MatMul with five columns and four rows returns numbers that
mean nothing, and an index beyond a table returns zeros. onnxruntime rejects both. The checks here, before a run:

    shapes     OpenVINO's shape inference over the graph, once per new combination of input shapes
    indices    the number of rows of each constant table that an input indexes directly

Names, dtypes and fixed sizes are checked before, by `check_inputs`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec

KEPT_SHAPES = 256
"""Number of accepted combinations of shapes that are kept, so that a repeated one costs no shape inference."""

_KEEPS_VALUES = frozenset({"Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})
_Shapes = tuple[tuple[int, ...], ...]


class InputCheck:
    """Check of inputs against one graph, before it is compiled; safe for use by several threads."""

    def __init__(self, model: Any, inputs: Mapping[TensorSpec, int]) -> None:
        self._places = {spec.name: place for spec, place in inputs.items()}
        self._table_rows = _table_rows(model, self._places)
        is_free = any(isinstance(axis, str) for spec in inputs for axis in spec.shape[1:])
        self._model: Any = model if is_free else None
        self._accepted: OrderedDict[_Shapes, None] = OrderedDict()
        self._lock = threading.Lock()

    def reason_against(self, inputs: Tensors) -> Exception | str | None:
        """Return the reason why the graph does not allow these inputs, as text or as OpenVINO's error; None if it does."""
        for name, rows in self._table_rows.items():
            lowest, highest = int(inputs[name].min(initial=0)), int(inputs[name].max(initial=0))
            if lowest < -rows or highest >= rows:
                return (
                    f"{name} must hold indices from {-rows} to {rows - 1}, but it holds {lowest if lowest < -rows else highest}"
                )
        return None if self._model is None else self._reason_against_shapes(inputs)

    def _reason_against_shapes(self, inputs: Tensors) -> Exception | None:
        shapes = tuple(inputs[name].shape for name in self._places)
        with self._lock:
            if shapes in self._accepted:
                self._accepted.move_to_end(shapes)
                return None
            try:
                self._model.reshape({place: list(inputs[name].shape) for name, place in self._places.items()})
            except RuntimeError as error:
                return error
            self._accepted[shapes] = None
            if len(self._accepted) > KEPT_SHAPES:
                self._accepted.popitem(last=False)
        return None


def _table_rows(model: Any, places: Mapping[str, int]) -> dict[str, int]:
    """Return the number of rows of the smallest constant table that each input indexes directly, by input."""
    names = {model.inputs[place].get_node().get_friendly_name(): name for name, place in places.items()}
    rows: dict[str, int] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Gather":
            continue
        name, count = names.get(_source(node.input_value(1).get_node())), _rows(node)
        if name is not None and count is not None:
            rows[name] = min(count, rows.get(name, count))
    return rows


def _source(node: Any) -> str:
    """Return the name of the node whose values arrive here in another shape or integer type."""
    while node.get_type_name() in _KEEPS_VALUES:
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name())


def _rows(gather: Any) -> int | None:
    """Return the size of the indexed axis; None if it is not fixed."""
    axis, shape = gather.input_value(2).get_node(), gather.input_value(0).get_partial_shape()
    if axis.get_type_name() != "Constant" or shape.rank.is_dynamic:
        return None
    size = shape[int(axis.get_data().reshape(-1)[0])]
    return None if size.is_dynamic else int(size.get_length())
