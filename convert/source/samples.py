"""Samples for the comparison with the source: generated where the user has none, and kept as golden samples.

Golden samples travel with every variant, so that a device can repeat the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgewright.contracts.samples import Samples, Tensors, write_npz
from edgewright.contracts.variant import LayerKind, TensorSpec

GOLDEN_COUNT = 32
LEAST_GENERATED = 8
_GENERATED_ELEMENTS = 1 << 20
"""Limit of all generated inputs together: running large images dominates the conversion, and golden samples are transferred."""
_FREE_AXIS_SIZE = 16
_SHAPE_OPERATORS = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
"""Operators that keep the values of an index tensor."""


def generated_samples(
    inputs: Sequence[TensorSpec],
    rows: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Samples:
    """Return 8 to 32 plausible samples from a fixed seed.

    Args:
        inputs: the model's inputs.
        rows: for inputs that index a table, the number of its rows (see `table_rows`).
        ranges: for inputs that are quantized in the source, the smallest and the largest number that they hold.
    """
    elements = sum(math.prod(_sample_shape(spec)) for spec in inputs)
    count = min(max(_GENERATED_ELEMENTS // max(elements, 1), LEAST_GENERATED), GOLDEN_COUNT)
    generator = np.random.default_rng(0)
    samples = {spec.name: _plausible(spec, count, generator, (rows or {}).get(spec.name)) for spec in inputs}
    for name, (low, high) in (ranges or {}).items():
        samples[name] = generator.uniform(low, high, samples[name].shape).astype(samples[name].dtype)
    return Samples(samples)


def table_rows(graph: ir.Graph) -> dict[str, int]:
    """Return, for each input that indexes tables (token ids of an embedding), the row count of the smallest table."""
    rows = {str(value.name): list(_tables_indexed_by(value)) for value in graph.inputs}
    return {name: min(counts) for name, counts in rows.items() if counts}


def write_golden(graph: Path, samples: Samples, outputs: Tensors) -> None:
    """Write the first 32 samples and the source's outputs for them into the folder `graph`."""
    first = samples.slice(0, GOLDEN_COUNT)
    write_npz(graph / LayerKind.GOLDEN_INPUTS.file_name, first.inputs)
    write_npz(graph / LayerKind.GOLDEN_OUTPUTS.file_name, {name: array[:GOLDEN_COUNT] for name, array in outputs.items()})


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


def _sample_shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else _FREE_AXIS_SIZE for size in spec.shape[1:])


def _plausible(spec: TensorSpec, count: int, generator: np.random.Generator, rows: int | None) -> npt.NDArray[Any]:
    shape = (count, *_sample_shape(spec))
    dtype = np.dtype(spec.dtype)
    if rows is not None:
        return generator.integers(0, rows, shape).astype(dtype)
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    return generator.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
