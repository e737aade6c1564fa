"""Results as Arrow tables: what a script returns, what a model computes, and the part of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from edgewright.batch.job import OutputAction
from edgewright.contracts.files import writing_atomically
from edgewright.errors import OperationError

RESULT = "result"
"""Name of the column of a script's results that are plain values."""
FILE = "file"


def from_script(returned: Any) -> pa.Table:
    """Return the results of `run` as rows: a data frame, an Arrow table, or a list with one element per result.

    Raises:
        OperationError: it is something else, or Arrow has no type for an element.
    """
    if isinstance(returned, pa.Table):
        return returned
    if isinstance(returned, pa.RecordBatch):
        return pa.Table.from_batches([returned])
    if hasattr(returned, "columns") and hasattr(returned, "to_dict"):
        return pa.Table.from_pandas(returned, preserve_index=False)
    if hasattr(returned, "tolist"):
        returned = returned.tolist()
    if not isinstance(returned, list | tuple):
        raise OperationError(f"run() must return a list or a data frame with one result per input, not {type(returned).__name__}")
    try:
        if returned and all(isinstance(each, Mapping) for each in returned):
            return pa.Table.from_pylist([{name: _plain(value) for name, value in each.items()} for each in returned])
        return pa.table({RESULT: pa.array([_plain(each) for each in returned])})
    except (pa.ArrowException, TypeError, ValueError):
        return pa.table({RESULT: pa.array([str(each) for each in returned], pa.string())})


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def from_arrays(outputs: Mapping[str, npt.NDArray[Any]], labels: Sequence[str] = ()) -> pa.Table:
    """Return the outputs of a model: one column each, a list per row if it has several values; labels name the best class."""
    columns: dict[str, pa.Array] = {}
    for name, array in outputs.items():
        wide = array.reshape(len(array), -1) if len(array) else array.reshape(0, 1)
        if wide.shape[1] == len(labels) > 1 and "label" not in columns:
            best = pa.array(wide.argmax(axis=1).astype(np.int32))
            columns["label"] = pa.DictionaryArray.from_arrays(best, pa.array(list(labels))).cast(pa.string())
        flat = pa.array(np.ascontiguousarray(wide).reshape(-1))
        columns[name] = flat if wide.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, wide.shape[1])
    return pa.table(columns)


def joined(tables: Sequence[pa.Table], subject: str) -> pa.Table:
    """Return tables as one; whole numbers and floats become floats, and a missing column is null.

    Raises:
        OperationError: a column holds types that do not fit together.
    """
    filled = [table for table in tables if table.num_rows]
    if len(filled) <= 1:
        return filled[0] if filled else pa.table({})
    try:
        return pa.concat_tables(filled, promote_options="permissive")
    except pa.ArrowException as error:
        raise OperationError(f"the results of {subject} must have one type per column: {' '.join(str(error).split())}") from error


def part_path(folder: Path, task: int, action: OutputAction) -> Path:
    """Return the file of a task's results."""
    return folder / (f"part-{task:06d}.parquet" if action is OutputAction.PARTS else f"{task:06d}.arrow")


def write_part(table: pa.Table, path: Path) -> None:
    """Write the part of a task, so that the file is complete or absent.

    Raises:
        StorageFullError: the disk is full.
        NotWritableError: the folder cannot be written.
    """
    with writing_atomically(path) as stream:
        if path.suffix == ".parquet":
            pq.write_table(table, stream)
            return
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
