"""Samples: a `.npz` with one array per graph input (a single array may have any name) and optional `labels`.

Everything that reads samples (parity, calibration, evaluation, the golden check on a device) reads them here, so that a
shape or dtype that does not fit is told in the same words everywhere. Many samples stay on disk until a batch of them is
asked for (stored_arrays.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.files import writing_atomically
from edgewright.contracts.stored_arrays import Tensors, cast, let_go, read_arrays
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError

__all__ = ["LABELS", "Samples", "Tensors", "fit", "load_samples", "read_npz", "write_npz"]

LABELS = "labels"

_DAMAGED = (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError)


@dataclass(frozen=True, slots=True)
class Samples:
    """Arrays whose first axis counts the samples, one per graph input, and the true labels when known (integers, [count]).

    Take batches of them: what `slice` and `take` give is in memory, the whole may be on disk.
    """

    inputs: Tensors
    labels: npt.NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[Samples]:
        """Cut into batches of at most `size` samples."""
        for start in range(0, self.count, size):
            yield self.slice(start, start + size)

    def slice(self, start: int, stop: int) -> Samples:
        """Return samples `start` to `stop` (exclusive)."""
        return self.take(np.arange(*slice(start, stop).indices(self.count)))

    def take(self, places: npt.NDArray[np.integer]) -> Samples:
        """Return the samples at `places`, in that order."""
        taken = {name: array[places] for name, array in self.inputs.items()}
        for array in self.inputs.values():
            let_go(array)
        return Samples(taken, None if self.labels is None else self.labels[places])


def load_samples(path: Path, inputs: Sequence[TensorSpec]) -> Samples:
    """Read `path` and check it against the model's inputs.

    Integer images are cast to a float input's dtype by value (0..255 stays 0..255).

    Raises:
        SamplesError: the file is no `.npz`, an input is missing, or a shape or dtype does not fit; both sides are told.
    """
    arrays = _read_mapped(path)
    labels = arrays.pop(LABELS, None)
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    fitted = {spec.name: fit(arrays.get(spec.name), spec, path, tuple(arrays)) for spec in inputs}
    counts = {name: len(array) for name, array in fitted.items()}
    if labels is not None:
        counts[LABELS] = len(labels)
    if len(set(counts.values())) > 1:
        raise SamplesError(f"{path}: every array must have the same number of samples, not {counts}")
    return Samples(fitted, None if labels is None else _as_class_indices(labels, path))


def fit(array: npt.NDArray[Any] | None, spec: TensorSpec, where: object, found: Sequence[str] = ()) -> npt.NDArray[Any]:
    """Return `array` as the dtype of `spec`; raise `SamplesError` when missing or when shape or dtype do not fit."""
    if array is None:
        raise SamplesError(f"{where}: the model's input {spec} is missing; found arrays: {', '.join(found) or 'none'}")
    if not _shape_fits(array.shape, spec.shape):
        raise SamplesError(
            f"{where}: input {spec.name} must have shape [{', '.join(map(str, spec.shape))}], "
            f"but the samples have shape [{', '.join(map(str, array.shape))}]"
        )
    if len(array) == 0:
        raise SamplesError(f"{where}: at least one sample is needed, but {spec.name} has none")
    wanted = np.dtype(spec.dtype)
    if array.dtype == wanted:
        return array
    if wanted.kind == "f" and array.dtype.kind in "fiu":
        return cast(array, wanted)
    raise SamplesError(f"{where}: input {spec.name} must be {spec.dtype}, but the samples are {array.dtype}")


def read_npz(path: Path) -> Tensors:
    """Read all arrays of a `.npz`, never unpickling; raise `SamplesError` when it is none."""
    if not path.is_file():
        raise SamplesError(f"{path}: no such file; samples are a .npz with one array per input and optional labels")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:  # NumPy leaves a damaged file open
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SamplesError(f"{path}: samples must be a .npz archive, but this is a single .npy array")
            return {name: archive[name] for name in archive.files}
    except _DAMAGED as wrong:
        raise SamplesError(f"{path}: samples must be a .npz of plain arrays: {_in_our_words(wrong)}") from wrong


def _read_mapped(path: Path) -> Tensors:
    """Read as `read_npz` does, and leave on disk what is large."""
    if not zipfile.is_zipfile(path):
        return read_npz(path)
    try:
        return read_arrays(path)
    except _DAMAGED as wrong:
        raise SamplesError(f"{path}: samples must be a .npz of plain arrays: {_in_our_words(wrong)}") from wrong


def _in_our_words(wrong: Exception) -> str:
    """NumPy advises `allow_pickle`, which would run code from the file, also for what is no archive at all."""
    if "pickle" in str(wrong):
        return "this holds Python objects, or is no .npz; write it with numpy.savez(path, name=array), with numbers or text"
    return str(wrong)


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays, sorted by name; the same arrays give the same bytes (NumPy stamps every entry 1980-01-01)."""
    with writing_atomically(path) as stream:
        ordered: dict[str, Any] = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
        np.savez(stream, **ordered)


def _shape_fits(found: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """The first axis counts samples, whatever the graph's batch is; named axes fit any size."""
    if len(found) != len(wanted):
        return False
    return all(isinstance(want, str) or have == want for have, want in zip(found[1:], wanted[1:], strict=True))


def _as_class_indices(labels: npt.NDArray[Any], path: Path) -> npt.NDArray[np.int64]:
    flat = labels.reshape(len(labels), -1)
    if labels.dtype.kind not in "iu" or flat.shape[1] != 1:
        raise SamplesError(
            f"{path}: labels must be one integer class index per sample, but they are {labels.dtype}{list(labels.shape)}"
        )
    return flat[:, 0].astype(np.int64)
