"""Samples: a `.npz` with one array per graph input (a single array may have any name) and optional `labels`.

Parity, calibration, evaluation, the golden check of a device and the scoring server check their inputs here, so that a shape or
dtype that does not fit gives the same message everywhere. Large sets stay on disk until a batch is read (stored_arrays.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.class_labels import class_indices
from edgewright.contracts.files import writing_atomically
from edgewright.contracts.stored_arrays import Tensors, cast, let_go, read_arrays
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError

__all__ = ["LABELS", "Samples", "Tensors", "check_inputs", "fit", "load_samples", "read_npz", "write_npz"]

LABELS = "labels"

_DAMAGED = (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError)


@dataclass(frozen=True, slots=True)
class Samples:
    """One array per graph input, whose first axis counts the samples, and the true labels if known.

    Labels are class indices, int64 [count], or [count, …] with one class per position or pixel.

    `batches`, `slice` and `take` return arrays in memory; the whole set may be on disk.
    """

    inputs: Tensors
    labels: npt.NDArray[np.int64] | None = None
    given: Tensors | None = None
    """The inputs in the dtypes of their file, if they are others; only for all samples, not for a part of them."""

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[Samples]:
        """Cut into batches of at most `size` samples."""
        for start in range(0, self.count, size):
            yield self.slice(start, start + size)

    def slice(self, start: int, stop: int) -> Samples:
        """Return samples `start` to `stop` (exclusive)."""
        return self.take(np.arange(*slice(start, stop).indices(self.count)))

    def take(self, indices: npt.NDArray[np.integer]) -> Samples:
        """Return the samples at `indices`, in that order."""
        taken = {name: array[indices] for name, array in self.inputs.items()}
        for array in self.inputs.values():
            let_go(array)
        return Samples(taken, None if self.labels is None else self.labels[indices])


def load_samples(
    path: Path, inputs: Sequence[TensorSpec], classes: Sequence[str] = (), class_values: Sequence[str] = ()
) -> Samples:
    """Read `path` and check it against the model's inputs.

    An array may have the layout of the source model, if its batch axis is another one there. Integer images are cast to a float
    input's dtype by value (0..255 stays 0..255). Labels become indices of the classes (class_labels.py): of `classes`, their
    names, or of `class_values`, their values in the source if the names are others.

    Raises:
        SamplesError: the file is not a `.npz`, an input is missing, or a shape or dtype does not fit.
    """
    arrays = _read_mapped(path)
    labels = arrays.pop(LABELS, None)
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    arrays |= _batch_first(arrays, inputs)
    fitted = {spec.name: fit(arrays.get(spec.name), spec, path, tuple(arrays)) for spec in inputs}
    empty = next((name for name, array in fitted.items() if array.size == 0), None)
    if empty is not None:
        shape = ", ".join(map(str, fitted[empty].shape))
        raise SamplesError(f"{path}: samples of {empty} must have no axis of size 0, but they have shape [{shape}]")
    given = {spec.name: arrays[spec.name] for spec in inputs}
    counts = {name: len(array) for name, array in fitted.items()}
    if labels is not None:
        if labels.ndim == 0:
            raise SamplesError(f"{path}: labels must be one integer class index per sample, but they are a single value")
        counts[LABELS] = len(labels)
    if len(set(counts.values())) > 1:
        raise SamplesError(f"{path}: every array must have the same number of samples, not {counts}")
    cast_to = any(array.dtype != fitted[name].dtype for name, array in given.items())
    indices = None if labels is None else class_indices(labels, classes, class_values, path)
    return Samples(fitted, indices, given if cast_to else None)


def _batch_first(arrays: Tensors, inputs: Sequence[TensorSpec]) -> Tensors:
    """Return the arrays that have the layout of the source model, with their batch axis moved to the front."""
    counts = [len(arrays[spec.name]) for spec in inputs if not spec.batch_axis and spec.name in arrays and arrays[spec.name].ndim]
    moved: Tensors = {}
    for spec in inputs:
        array = arrays.get(spec.name)
        if not spec.batch_axis or array is None or array.ndim != len(spec.shape):
            continue
        here = _shape_fits(array.shape, spec.shape) and (not counts or len(array) == counts[0])
        if not here and _shape_fits(np.moveaxis(array, spec.batch_axis, 0).shape, spec.shape):
            moved[spec.name] = np.moveaxis(array, spec.batch_axis, 0)
    return moved


def check_inputs(inputs: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """Return the arrays of a scoring request in the dtypes of `specs`.

    Raises:
        SamplesError: an input is missing or unknown, a shape or dtype does not fit, or the sample counts differ.
    """
    if _fit_exactly(inputs, specs):
        return inputs
    names = [spec.name for spec in specs]
    unknown = [name for name in inputs if name not in names]
    if unknown:
        raise SamplesError(f"unknown input {', '.join(unknown)}: the model's inputs are {', '.join(map(str, specs))}")
    fitted = {spec.name: fit(inputs.get(spec.name), spec, "request", tuple(inputs)) for spec in specs}
    counts = {name: len(array) for name, array in fitted.items()}
    if len(set(counts.values())) > 1:
        raise SamplesError(f"request: every input must have the same number of samples, not {counts}")
    return fitted


def fit(array: npt.NDArray[Any] | None, spec: TensorSpec, source: object, names: Sequence[str] = ()) -> npt.NDArray[Any]:
    """Return `array` in the dtype of `spec`; `source` and `names` (of all arrays there) are for the message.

    Raises:
        SamplesError: the array is missing or empty, or its shape or dtype does not fit.
    """
    if array is None:
        raise SamplesError(f"{source}: the model's input {spec} is missing; found arrays: {', '.join(names) or 'none'}")
    if not _shape_fits(array.shape, spec.shape):
        raise SamplesError(
            f"{source}: input {spec.name} must have shape [{', '.join(map(str, spec.shape))}], "
            f"but the samples have shape [{', '.join(map(str, array.shape))}]"
        )
    if len(array) == 0:
        raise SamplesError(f"{source}: at least one sample is needed, but {spec.name} has none")
    dtype = np.dtype(spec.dtype)
    if array.dtype == dtype:
        return array
    if dtype.kind == "f" and array.dtype.kind in "fiu":
        return cast(array, dtype)
    if dtype.kind == "O" and array.dtype.kind in "US":
        return array.astype(str).astype(object)
    raise SamplesError(f"{source}: input {spec.name} must be {spec.dtype}, but the samples are {array.dtype}")


def read_npz(path: Path) -> Tensors:
    """Read all arrays of a `.npz` without unpickling.

    Raises:
        SamplesError: the file is missing, damaged or not a `.npz`, or holds Python objects.
    """
    if not path.is_file():
        raise SamplesError(f"{path}: no such file; samples are a .npz with one array per input and optional labels")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:  # NumPy leaves a damaged file open
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SamplesError(f"{path}: samples must be a .npz archive, but this is a single .npy array")
            return {name: archive[name] for name in archive.files}
    except _DAMAGED as error:
        raise SamplesError(f"{path}: samples must be a .npz of plain arrays: {_reason(error)}") from error


def _read_mapped(path: Path) -> Tensors:
    """Read as `read_npz` does, but leave large arrays on disk."""
    if not zipfile.is_zipfile(path):
        return read_npz(path)
    try:
        return read_arrays(path)
    except _DAMAGED as error:
        raise SamplesError(f"{path}: samples must be a .npz of plain arrays: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Replace NumPy's advice to use `allow_pickle`, which would run code from the file; NumPy gives it for any other file too."""
    if "pickle" in str(error):
        return "it holds Python objects, or is not a .npz; write it with numpy.savez(path, name=array), with numbers or text"
    return str(error)


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays, sorted by name; the same arrays give the same bytes (NumPy stamps every entry 1980-01-01)."""
    with writing_atomically(path) as stream:
        ordered: dict[str, Any] = {name: np.ascontiguousarray(_as_text(arrays[name])) for name in sorted(arrays)}
        np.savez(stream, **ordered)


def _as_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return text of the runtime as plain text, which needs no pickle."""
    return array.astype(str) if array.dtype.kind == "O" else array


def _shape_fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Compare all axes but the first, which counts samples; a named axis fits any size."""
    if len(shape) != len(expected):
        return False
    for size, axis in zip(shape[1:], expected[1:], strict=True):  # noqa: SIM110 - for every request, in a third of the time of all()
        if size != axis and not isinstance(axis, str):
            return False
    return True


def _fit_exactly(inputs: Tensors, specs: Sequence[TensorSpec]) -> bool:
    """Return True for the arrays of nearly every request: all inputs in their order, shapes and dtypes, with equal counts."""
    if len(inputs) != len(specs):
        return False
    count = 0
    for (name, array), spec in zip(inputs.items(), specs, strict=True):
        if name != spec.name or array.dtype != _dtype(spec.dtype) or not _shape_fits(array.shape, spec.shape):
            return False
        if len(array) == 0 or count not in (0, len(array)):
            return False
        count = len(array)
    return True


@lru_cache(maxsize=64)
def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)
