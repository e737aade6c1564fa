"""Samples for the comparison with the source: generated where the user has none, and kept as golden samples.

Generated ones reach what the source accepts: zeros and negative numbers, masks of zeros and ones, rows of tables; for tree
ensembles the splits with the values on both sides, missing values, and the numbers that mark them. Golden samples are packaged
with every variant, so that a device can repeat the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.source.input_uses import InputUse
from convert.source.sample_sets import Sizes
from edgewright.contracts.samples import Samples, Tensors, write_npz
from edgewright.contracts.variant import LayerKind, TensorSpec

GOLDEN_COUNT = 32
LEAST_GENERATED = 8
_GENERATED_ELEMENTS = 1 << 20
"""Limit of all generated inputs together: running large images dominates the conversion, and golden samples are transferred."""
FREE_AXIS_SIZES = (16, 64, 256)
"""Sizes of free axes that are tried; networks for pictures need a multiple of their stride, and sound needs long inputs."""
_SENTINELS = (0.0, -1.0, -999.0, 999.0, -9999.0)
"""Numbers that stand for a missing value in many tables."""
_HOLES = 0.3

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to generate samples; a source that cannot run the first gets the next one."""

    missing: bool = False
    """Tables hold missing values, and numbers that mark them."""
    counts: int = 100
    """Integers that look up no table are below this; 2 suits masks with any name, 1 leaves zeros."""
    size: int = FREE_AXIS_SIZES[0]
    """Size of every free axis but the first."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Values that the columns of an input hold in the source: categories, or the words of documents."""

    columns: Mapping[int, Sequence[Any]]
    """Values by column; an input with one axis has column 0."""
    words: bool = False
    """The values are words, of which a sample has several."""


def usable_sizes(inputs: Sequence[TensorSpec]) -> list[int]:
    """Return the sizes of the free axes to try: one if there is no free axis, and none that makes a sample too large."""
    sizes = FREE_AXIS_SIZES if any(isinstance(axis, str) for spec in inputs for axis in spec.shape[1:]) else FREE_AXIS_SIZES[:1]
    elements = [sum(math.prod(_sample_shape(spec, size, {})) for spec in inputs) for size in sizes]
    return [size for size, count in zip(sizes, elements, strict=True) if count <= _GENERATED_ELEMENTS or size == sizes[0]]


def generated_samples(
    inputs: Sequence[TensorSpec],
    uses: Mapping[str, InputUse] | None = None,
    attempt: Attempt = Attempt(),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    *,
    sizes: Sizes | None = None,
    examples: Mapping[str, Examples] | None = None,
) -> Samples:
    """Return 8 to 32 plausible samples from a fixed seed.

    Args:
        inputs: the model's inputs.
        uses: what the graph does with them (see `input_uses`).
        attempt: the way to generate them.
        ranges: for inputs that are quantized in the source, the smallest and the largest number that they hold.
        sizes: of free axes, by name; others have the size of the attempt.
        examples: values that inputs hold in the source, by name.
    """
    shapes = {spec.name: _sample_shape(spec, attempt.size, sizes or {}) for spec in inputs}
    elements = sum(math.prod(shape) for shape in shapes.values())
    count = min(max(_GENERATED_ELEMENTS // max(elements, 1), LEAST_GENERATED), GOLDEN_COUNT)
    generator = np.random.default_rng(0)
    samples = {
        spec.name: _plausible(spec, (count, *shapes[spec.name]), generator, (uses or {}).get(spec.name, InputUse()), attempt)
        for spec in inputs
    }
    for name, (low, high) in (ranges or {}).items():
        samples[name] = generator.uniform(low, high, samples[name].shape).astype(samples[name].dtype)
    for name, known in (examples or {}).items():
        _fill(samples[name], known, generator)
    return Samples(samples)


def without_failures(samples: Samples, expected: Tensors) -> tuple[Samples, Tensors]:
    """Leave out generated samples for which the source itself gives NaN or infinity; none are left if it does so for all."""
    valid = finite_samples(samples.count, expected)
    if valid.all():
        return samples, expected
    return samples.take(np.flatnonzero(valid)), only(expected, valid)


def finite_samples(count: int, outputs: Tensors) -> npt.NDArray[np.bool_]:
    """Return True for each of `count` samples whose outputs are finite."""
    valid = np.ones(count, np.bool_)
    for array in outputs.values():
        if array.dtype.kind == "f" and len(array) == count:
            valid &= np.isfinite(array.reshape(count, -1)).all(axis=1)
    return valid


def only(outputs: Tensors, valid: npt.NDArray[np.bool_]) -> Tensors:
    """Return the outputs of the valid samples; an output that does not count samples stays whole."""
    return {name: array[valid] if len(array) == len(valid) else array for name, array in outputs.items()}


def write_golden(graph: Path, samples: Samples, outputs: Tensors) -> None:
    """Write the first 32 samples and the source's outputs for them into the folder `graph`."""
    first = samples.slice(0, GOLDEN_COUNT)
    write_npz(graph / LayerKind.GOLDEN_INPUTS.file_name, first.inputs)
    write_npz(graph / LayerKind.GOLDEN_OUTPUTS.file_name, {name: array[:GOLDEN_COUNT] for name, array in outputs.items()})


def _sample_shape(spec: TensorSpec, free: int, sizes: Sizes) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else sizes.get(size, free) for size in spec.shape[1:])


def _plausible(
    spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator, use: InputUse, attempt: Attempt
) -> _Array:
    dtype = np.dtype(spec.dtype)
    if use.table_rows is not None:
        return generator.integers(0, use.table_rows, shape).astype(dtype)
    if use.mask and dtype.kind != "O":
        return _mask(shape, generator).astype(dtype)
    if dtype.kind == "f":
        values = generator.normal(size=shape)
        if len(shape) == 2:
            return _table(values, generator, use, attempt).astype(dtype)
        return _with_edges(values).astype(dtype)
    if dtype.kind == "O":
        return generator.integers(0, 100, shape).astype(str).astype(object)
    return generator.integers(0, 2 if dtype.kind == "b" else attempt.counts, shape).astype(dtype)


def _fill(values: _Array, examples: Examples, generator: np.random.Generator) -> None:
    """Fill columns with examples; documents have up to eight words, and the second one none."""
    table = values.reshape(len(values), -1)
    for column, known in examples.columns.items():
        for row in range(len(table)):
            count = (0 if row == 1 else int(generator.integers(1, 9))) if examples.words else 1
            picked = [known[place] for place in generator.integers(0, len(known), count)]
            table[row, column] = " ".join(picked) if examples.words else picked[0]


def _with_edges(values: _Array) -> _Array:
    """Make the second sample zeros and the third one negative."""
    values[1] = 0.0
    values[2] = -np.abs(values[2])
    return values


def _mask(shape: tuple[int, ...], generator: np.random.Generator) -> _Array:
    """Return ones followed by zeros along the last axis; the first samples are ones throughout."""
    lengths = generator.integers(1, shape[-1] + 1, (*shape[:-1], 1)) if len(shape) > 1 else np.ones(shape, np.int64)
    lengths[:2] = shape[-1]
    ones: _Array = (np.arange(shape[-1]) < lengths) if len(shape) > 1 else lengths
    return ones


def _table(values: _Array, generator: np.random.Generator, use: InputUse, attempt: Attempt) -> _Array:
    """Return rows of a table: plain, zeros, negative, on the splits, and on both sides of them; some with missing values."""
    _with_edges(values)
    narrow = values.astype(np.float32)
    for feature, splits in use.splits.items():
        picked = generator.choice(splits, len(narrow)).astype(np.float32)
        up, down = np.nextafter(picked, np.float32(np.inf)), np.nextafter(picked, np.float32(-np.inf))
        between = generator.uniform(splits.min(), splits.max(), len(narrow)).astype(np.float32)
        kinds = np.arange(len(narrow)) % 4
        sides = np.choose(kinds, [between, picked, up, down])
        narrow[3:, feature] = sides[3:]
    if attempt.missing:
        holes = generator.random(narrow.shape) < _HOLES
        marks = generator.choice(np.array([np.nan, np.nan, np.nan, *_SENTINELS, *use.sentinels]), narrow.shape)
        narrow[4::2] = np.where(holes, marks, narrow)[4::2]
        narrow[5] = np.nan
    return narrow
