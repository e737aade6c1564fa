"""Record what the outputs of a graph predict, as far as the source or the graph shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgewright.contracts.variant import Measure, TensorSpec

_COPYING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice"}
"""Operators that keep the values of their first input."""


def with_measures(graph: ir.Graph, specs: Sequence[TensorSpec], predicted: str) -> tuple[TensorSpec, ...]:
    """Return the specs with the measures of the outputs: copies of inputs, and `predicted` for the first other one of floats."""
    measured = [
        replace(spec, measure=Measure.COPY.value) if _copies(value) else spec
        for spec, value in zip(specs, graph.outputs, strict=True)
    ]
    first = next((place for place, spec in enumerate(measured) if not spec.measure and spec.dtype.startswith("float")), None)
    if first is not None and predicted:
        measured[first] = replace(measured[first], measure=str(predicted))
    return tuple(measured)


def _copies(value: ir.Value) -> bool:
    """Return True if a value holds the numbers of an input or of a constant, unchanged."""
    node = value.producer()
    while node is not None:
        source = node.inputs[0] if node.inputs else None
        if node.op_type not in _COPYING or source is None:
            return str(node.op_type) == "Constant"
        node = source.producer()
    return True
