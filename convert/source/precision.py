"""Find the features that float32 cannot hold: the graph computes in float32, but models of tables compute in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.source.parity import ParityReport
from edgewright.contracts.samples import LABELS, Samples, read_npz

_Array = npt.NDArray[Any]


def rounds_in_float32(path: Path) -> bool:
    """Return True if the file holds numbers that float32 rounds."""
    return any(_rounded(array).any() for name, array in read_npz(path).items() if name != LABELS and array.dtype.kind in "fiu")


def lost_by_float32(samples: Samples, report: ParityReport, column_names: Callable[[], Sequence[str]] = tuple) -> str:
    """Return the feature that float32 rounds most, as the cause of a failed comparison; empty if it rounds none.

    The feature is the one with the most values that become equal, else the one of the worst sample.

    Args:
        samples: the samples of the comparison.
        report: the failed comparison.
        column_names: returns the names of the features that the source holds, or none.
    """
    for name, array in (samples.given or {}).items():
        if array.dtype.kind not in "fiu" or not _rounded(array).any():
            continue
        columns = array.reshape(len(array), -1)
        equal = [_merged(columns[:, place]) for place in range(columns.shape[1])]
        place = int(np.argmax(equal)) if any(equal) else _most_rounded(columns, report)
        feature = _feature(place, column_names(), columns.shape[1])
        return f"float32 cannot hold the values of {name}, {feature} ({_example(columns[:, place])}): {_ADVICE}"
    return ""


def _feature(place: int, names: Sequence[str], count: int) -> str:
    return f"feature {place} {names[place]!r}" if len(names) == count else f"feature {place}"


_ADVICE = "train on float32 values, on differences from a constant, or on larger units"


def _rounded(array: _Array) -> npt.NDArray[np.bool_]:
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        return np.zeros(1, np.bool_)
    with np.errstate(over="ignore"):
        wide = array.astype(np.float64)
        changed: npt.NDArray[np.bool_] = (wide.astype(np.float32) != wide) & ~np.isnan(wide)
    return changed


def _merged(column: _Array) -> int:
    """Return the number of different values that become equal."""
    with np.errstate(over="ignore"):
        return len(np.unique(column)) - len(np.unique(column.astype(np.float32)))


def _most_rounded(columns: _Array, report: ParityReport) -> int:
    """Return the feature of the worst sample with the largest relative rounding."""
    worst = max(report.outputs, key=lambda output: output.max_relative_difference).worst_sample
    row = columns[min(worst, len(columns) - 1)].astype(np.float64)
    return int(np.nanargmax(np.abs(row - row.astype(np.float32)) / np.maximum(np.abs(row), 1e-300)))


def _example(column: _Array) -> str:
    """Return two different values that become one, or one value and its rounded form."""
    values = np.unique(column)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    same = np.flatnonzero(narrow[1:] == narrow[:-1])
    if same.size:
        first, second = values[same[0]], values[same[0] + 1]
        return f"{first:.17g} and {second:.17g} become {float(narrow[same[0]]):.17g}"
    place = int(np.flatnonzero(_rounded(values))[0])
    return f"{values[place]:.17g} becomes {float(narrow[place]):.17g}"
