"""Divide the inputs of a job into tasks. The plan depends on the files alone, so that any engine makes the same parts.

files      consecutive files, several mini-batches to a task
Parquet    consecutive row groups of one file, up to `ROWS_PER_TASK` rows
Arrow      consecutive record batches of one file, likewise
CSV        one file: where a line starts is only known after reading those before it
keys       all rows of one combination of values
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.ipc
import pyarrow.parquet as pq

from edgewright.batch.inputs import ARROW, PARQUET, InputFile, format_of
from edgewright.batch.job import BatchJob, InputKind, mini_batch_size
from edgewright.batch.tasks import Failure, Task
from edgewright.errors import BadInputError, one_line

ROWS_PER_TASK = 65_536
FILES_PER_TASK = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks of a job, and the inputs that could not be opened."""

    tasks: tuple[Task, ...]
    failures: tuple[Failure, ...] = ()


def make_plan(job: BatchJob, files: Sequence[InputFile], kind: InputKind) -> Plan:
    """Return the tasks; a table that cannot be opened becomes a failure.

    Raises:
        BadInputError: partition keys of anything but tables, or of a column that a table does not have.
    """
    if kind is InputKind.FILES:
        if job.partition_keys:
            raise BadInputError("partition_keys must be columns of tables, but the input has other files")
        return Plan(tuple(_tasks_of_files(job, files)))
    tasks: list[Task] = []
    failures: list[Failure] = []
    readable: list[str] = []
    for file in files:
        try:
            for count, units in _pieces(file.path):
                task = Task(number=len(tasks), kind=kind, paths=(file.path,), count=count, units=units)
                tasks.append(task)
            readable.append(file.path)
        except (OSError, pa.ArrowException) as error:
            failures.append(Failure(item=file.path, count=1, error=f"cannot be read: {one_line(error)}"))
    if job.partition_keys:
        tasks = list(_tasks_of_keys(job, readable))
    return Plan(tuple(tasks), tuple(failures))


def _tasks_of_files(job: BatchJob, files: Sequence[InputFile]) -> Iterator[Task]:
    per_mini_batch = mini_batch_size(job, InputKind.FILES).count or 1
    per_task = max(1, FILES_PER_TASK // per_mini_batch) * per_mini_batch
    for number, start in enumerate(range(0, len(files), per_task)):
        paths = tuple(file.path for file in files[start : start + per_task])
        yield Task(number=number, kind=InputKind.FILES, paths=paths, count=len(paths))


def _pieces(path: str) -> Iterator[tuple[int | None, tuple[int, ...]]]:
    """Yield the rows and units of each task of a table."""
    form = format_of(path)
    if form == PARQUET:
        with pq.ParquetFile(path) as file:
            counts = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        yield from _grouped(counts)
    elif form == ARROW:
        with pa.memory_map(path) as source:
            reader = pa.ipc.open_file(source)
            counts = [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]
        yield from _grouped(counts)
    else:
        with pa.OSFile(path):
            yield None, ()


def _grouped(counts: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    rows = 0
    units: list[int] = []
    for index, count in enumerate(counts):
        if units and rows + count > ROWS_PER_TASK:
            yield rows, tuple(units)
            rows, units = 0, []
        rows, units = rows + count, [*units, index]
    if units:
        yield rows, tuple(units)


def _tasks_of_keys(job: BatchJob, paths: Sequence[str]) -> Iterator[Task]:
    """Yield one task per combination of values, in their order of appearance."""
    found: dict[tuple[Any, ...], tuple[dict[str, Any], list[str], int]] = {}
    for path in paths:
        for values, count in _keys_in(path, job.partition_keys):
            key = tuple(map(repr, values.values()))
            values, known, total = found.get(key, (values, [], 0))
            found[key] = (values, [*known, path], total + count)
    for number, (values, where, count) in enumerate(found.values()):
        yield Task(number=number, kind=InputKind.TABLE, paths=tuple(where), count=count, key=values)


def _keys_in(path: str, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], int]]:
    table = ds.dataset(path, format=format_of(path), partitioning="hive")
    missing = [name for name in names if name not in table.schema.names]
    if missing:
        raise BadInputError(f"{path} must have the column {missing[0]} of partition_keys, but it has {_some(table.schema.names)}")
    rows = table.to_table(columns=list(names)).group_by(list(names), use_threads=False).aggregate([([], "count_all")])
    for row in rows.to_pylist():
        count = row.pop("count_all")
        yield {name: _plain(row[name], path, name) for name in names}, count


def _plain(value: Any, path: str, name: str) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BadInputError(f"{path}: the partition key {name} must hold text, whole numbers or booleans, not {type(value).__name__}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
