"""Read a task as mini-batches: rows of a table, or paths of files."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.ipc
import pyarrow.parquet as pq

from edgewright.batch.inputs import ARROW, PARQUET, format_of
from edgewright.batch.job import BatchJob, InputKind, MiniBatchSize, mini_batch_size
from edgewright.batch.tasks import Task


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """The items of one call of `run`."""

    item: str
    """Name for messages."""
    count: int
    table: pa.Table | None = None
    paths: tuple[str, ...] = ()


def mini_batches(job: BatchJob, task: Task) -> Iterator[MiniBatch]:
    """Yield the mini-batches of a task, in the order of the input.

    Raises:
        OSError: a file cannot be read.
        pyarrow.ArrowException: a file is not what its suffix says, or is damaged.
    """
    size = mini_batch_size(job, task.kind)
    if task.kind is InputKind.FILES:
        per_batch = size.count or len(task.paths)
        for start in range(0, len(task.paths), per_batch):
            paths = task.paths[start : start + per_batch]
            yield MiniBatch(paths[0] if len(paths) == 1 else f"{paths[0]} … {paths[-1]}", len(paths), paths=paths)
        return
    if task.key is not None:
        rows = _rows_of_key(task)
        named = ", ".join(f"{name}={value}" for name, value in task.key.items())
        yield MiniBatch(f"rows with {named}", rows.num_rows, rows)
        return
    start = 0
    for table in _tables(task):
        per_batch = _rows_per_batch(table, size)
        for offset in range(0, table.num_rows, per_batch):
            rows = table.slice(offset, per_batch)
            yield MiniBatch(f"{_name(task)} rows {start}-{start + rows.num_rows - 1}", rows.num_rows, rows)
            start += rows.num_rows


def _name(task: Task) -> str:
    """Return the file, and the row group or record batch from which rows are counted if it is not the first."""
    path = task.paths[0]
    first = task.units[0] if task.units else 0
    return path if first == 0 else f"{path} from {'row group' if format_of(path) == PARQUET else 'record batch'} {first}"


def _tables(task: Task) -> Iterator[pa.Table]:
    path = task.paths[0]
    form = format_of(path)
    if form == PARQUET:
        with pq.ParquetFile(path, memory_map=True) as file:
            for unit in task.units:  # one at a time, so that memory holds one row group
                yield file.read_row_group(unit, use_threads=False)
    elif form == ARROW:
        with pa.memory_map(path) as source:
            reader = pa.ipc.open_file(source)
            for unit in task.units:
                yield pa.Table.from_batches([reader.get_batch(unit)])
    else:
        options = pa.csv.ReadOptions(use_threads=False)
        yield pa.csv.read_csv(path, read_options=options)


def _rows_per_batch(table: pa.Table, size: MiniBatchSize) -> int:
    if size.count is not None:
        return size.count
    return max(1, int((size.size_bytes or 1) * table.num_rows / max(1, table.nbytes)))


def _rows_of_key(task: Task) -> pa.Table:
    conditions = [
        pc.field(name).is_null() if value is None else pc.field(name) == value for name, value in (task.key or {}).items()
    ]
    dataset = ds.dataset(list(task.paths), format=format_of(task.paths[0]), partitioning="hive")
    return dataset.to_table(filter=functools.reduce(lambda left, right: left & right, conditions), use_threads=False)
