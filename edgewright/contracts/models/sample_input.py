"""Sample inputs of a model: read from JSON, CSV, `.npy` or `.npz`, and the request to run a model on them.

A sample is a table (columns with names, as in CSV) or arrays with names. An array without a name is called `input`. A worker
process runs the model once, before the version is registered (`edgewright.sdk.trying`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.samples import Tensors, read_npz
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import NotFoundError, SamplesError, first_line

UNNAMED = "input"
MAX_SAMPLE_BYTES = 16 << 20
_ENVELOPES = ("data", "inputs", "input_data", "instances", "dataframe_split", "dataframe_records")
"""Names around a sample in the requests of Azure ML, MLflow and TensorFlow Serving."""
_FORMATS = "JSON, CSV, .npy or .npz"


@dataclass(frozen=True, slots=True)
class SampleInput:
    """Arrays by name, or the columns of a table, each [rows]."""

    arrays: Tensors
    is_table: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TryRequest:
    """Request to run a model once, for `python -m edgewright.try_model`."""

    model: str
    """Absolute path of the file or folder."""
    inputs: str
    """Absolute path of a `.npz` with the sample."""
    outputs: str
    """Absolute path of the `.npz` to write."""
    names: tuple[str, ...]
    """Names of the arrays in their order, which a `.npz` does not keep."""
    is_table: bool
    trust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedModel:
    """A model that was run on a sample: its framework, its inputs and its outputs."""

    framework: str
    """A `Framework`; `custom` for formats without a name of their own there."""
    framework_version: str
    """Version of the framework that ran it; empty if it is not known."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_sample_input(path: Path) -> SampleInput:
    """Read a sample from a file.

    Raises:
        NotFoundError: there is no such file.
        SamplesError: it is empty, too large, or not of a known format.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; a sample is a file in {_FORMATS}")
    size = path.stat().st_size
    if not 0 < size <= MAX_SAMPLE_BYTES:
        raise SamplesError(f"{path}: a sample must have 1 byte to {MAX_SAMPLE_BYTES >> 20} MiB, not {size} bytes")
    reader = {".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv, ".json": _read_json}.get(path.suffix.lower())
    if reader is None:
        raise SamplesError(f"{path}: a sample must be in {_FORMATS}, by the end of its name, not {path.suffix or 'without one'}")
    sample = reader(path)
    empty = [name for name, array in sample.arrays.items() if array.ndim == 0 or array.size == 0]
    if empty or not sample.arrays:
        raise SamplesError(f"{path}: a sample must have at least one row, but {empty[0] if empty else 'the file'} has none")
    return sample


def sample_of_json(document: Any, source: object) -> SampleInput:
    """Return the sample in a JSON document: rows, records, columns and data, or arrays by name.

    Raises:
        SamplesError: it has none of these forms, or rows of different lengths.
    """
    if isinstance(document, dict) and len(document) == 1 and next(iter(document)) in _ENVELOPES:
        document = next(iter(document.values()))
    if isinstance(document, dict) and {"columns", "data"} <= document.keys():
        return _table([str(name) for name in document["columns"]], document["data"], source)
    if isinstance(document, dict):
        return SampleInput({str(name): _array(value, name, source) for name, value in document.items()})
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        names = list(document[0])
        uneven = next((number for number, row in enumerate(document, 1) if list(row) != names), None)
        if uneven is not None:
            raise SamplesError(f"{source}: all records must have the fields {', '.join(names)}, but record {uneven} has others")
        return _table(names, [list(row.values()) for row in document], source)
    return SampleInput({UNNAMED: _array(document, UNNAMED, source)})


def spec_of(name: str, array: npt.NDArray[Any]) -> TensorSpec:
    """Return the description of an array whose first axis counts the samples."""
    dtype = "object" if array.dtype.kind in "USO" else array.dtype.name
    return TensorSpec(name=name, dtype=dtype, shape=("N", *array.shape[1:]))


def _read_json(path: Path) -> SampleInput:
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SamplesError(f"{path}: a sample must be complete JSON in UTF-8: {first_line(error)}") from error
    return sample_of_json(document, path)


def _read_npy(path: Path) -> SampleInput:
    try:
        with path.open("rb") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SamplesError(f"{path}: a sample must be a .npy array of numbers or text, but it is damaged or not one") from error
    return SampleInput({UNNAMED: array})


def _read_npz(path: Path) -> SampleInput:
    return SampleInput(read_npz(path))


def _read_csv(path: Path) -> SampleInput:
    try:
        rows = [row for row in csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise SamplesError(f"{path}: a sample must be CSV in UTF-8: {first_line(error)}") from error
    if rows and all(_is_number(cell) for cell in rows[0]):
        table = _table([str(number) for number in range(len(rows[0]))], [_cells(row) for row in rows], path)
        return SampleInput({UNNAMED: np.stack(list(table.arrays.values()), axis=1)})
    return _table(rows[0] if rows else [], [_cells(row) for row in rows[1:]], path)


def _table(names: Sequence[str], rows: Any, source: object) -> SampleInput:
    if len(set(names)) != len(names):
        raise SamplesError(f"{source}: the columns of a table must have different names, not {', '.join(names)[:200]}")
    if not isinstance(rows, list) or not rows:
        raise SamplesError(f"{source}: a table must have at least one row after its column names")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            found = len(row) if isinstance(row, list) else "no list"
            raise SamplesError(f"{source}: row {number} must have {len(names)} values, one per column, not {found}")
    columns = zip(*rows, strict=True)
    return SampleInput({name: _array(list(column), name, source) for name, column in zip(names, columns, strict=True)}, True)


def _array(value: Any, name: object, source: object) -> npt.NDArray[Any]:
    """Return nested lists as an array; null is NaN among numbers and empty text among texts."""
    values = value if isinstance(value, list) else [value]
    if any(each is None for each in values):
        values = [("" if any(isinstance(each, str) for each in values) else np.nan) if each is None else each for each in values]
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise SamplesError(f"{source}: {name} must be a list whose rows have the same length: {first_line(error)}") from error
    mixed = array.dtype.kind in "US" and not all(isinstance(each, str) for each in _leaves(values))
    if mixed or array.dtype.kind not in "biufUS":
        raise SamplesError(f"{source}: {name} must hold numbers, or text, or true and false, and not a mixture of them")
    return array


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]


def _cells(row: Sequence[str]) -> list[Any]:
    return [_cell(cell) for cell in row]


def _cell(cell: str) -> Any:
    if not cell.strip():
        return None
    if not _is_number(cell):
        return cell
    return int(cell) if cell.strip().lstrip("+-").isdecimal() else float(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def as_mapping(sample: SampleInput) -> Mapping[str, Any]:
    """Return a sample as JSON: columns and rows of a table, else arrays by name."""
    if not sample.is_table:
        return {name: array.tolist() for name, array in sample.arrays.items()}
    rows = [list(row) for row in zip(*(array.tolist() for array in sample.arrays.values()), strict=True)]
    return {"columns": list(sample.arrays), "data": rows}
