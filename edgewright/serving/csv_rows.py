"""Tables as CSV (RFC 4180): the rows of a request body, and a body with the outputs of a model.

An empty cell is a missing value. A cell that reads as a number is one; every other cell is text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgewright.errors import SamplesError, first_line
from edgewright.serving.http.messages import HttpError

MEDIA_TYPE = "text/csv"

Cell = float | str | None


def read_rows(body: bytes) -> list[list[str]]:
    """Return the cells of a body as text, without empty lines.

    Raises:
        SamplesError: it is not UTF-8 or not CSV, its lines have different numbers of cells, or it has no line.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SamplesError(f"the body must be CSV in UTF-8: {first_line(error)}") from error
    if not rows:
        raise SamplesError("the body must have at least one line of CSV, but it has none")
    uneven = next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if uneven is not None:
        found = len(rows[uneven - 1])
        raise SamplesError(f"every line of the CSV must have {len(rows[0])} cells like the first, but line {uneven} has {found}")
    return rows


def cell(text: str) -> Cell:
    """Return the value of a cell: a number, a text, or None for an empty one."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text


def write_rows(outputs: Mapping[str, Any]) -> bytes:
    """Return outputs as CSV with a header line; an output with several columns is numbered from 0.

    Raises:
        HttpError: an output has more than two axes (406).
    """
    names: list[str] = []
    columns: list[Sequence[Any]] = []
    for name, array in outputs.items():
        if array.ndim > 2:
            raise HttpError(406, f"{MEDIA_TYPE} cannot hold {name} with {array.ndim} axes; ask for application/json")
        wide = array.reshape(len(array), -1)
        single = wide.shape[1] == 1
        names += [name if single else f"{name}_{index}" for index in range(wide.shape[1])]
        columns += [_cells(wide[:, index]) for index in range(wide.shape[1])]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    return stream.getvalue().encode()


def _cells(column: Any) -> list[Any]:
    """Return the values of a column; NaN and infinity, which JSON cannot hold either, are empty cells."""
    if column.dtype.kind == "f":
        return [value if np.isfinite(value) else "" for value in column.tolist()]
    return list(column.tolist())
