"""The output file from the parts, in the order of the inputs; it has its name only when it is complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from edgewright.batch.results import RESULT
from edgewright.contracts.files import writing_atomically
from edgewright.errors import OperationError

ROWS_PER_GROUP = 262_144


def assemble(parts: Sequence[Path], target: Path) -> int:
    """Write the rows of the parts to `target` in the format of its suffix, and return their number.

    Raises:
        OperationError: a column has types in two parts that do not fit together.
        StorageFullError: the disk is full.
        NotWritableError: the file cannot be written.
    """
    schema = _schema(parts)
    with writing_atomically(target) as stream:
        return _WRITERS[target.suffix](_tables(parts, schema), schema, stream)


def _schema(parts: Sequence[Path]) -> pa.Schema:
    schemas = []
    for part in parts:
        with pa.memory_map(str(part)) as source:
            schemas.append(pa.ipc.open_file(source).schema.remove_metadata())
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        text = f"the results must have one type per column in all mini-batches: {' '.join(str(error).split())}"
        raise OperationError(text) from error


def _tables(parts: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of several parts at once, so that a Parquet file has large row groups."""
    gathered: list[pa.Table] = []
    for part in parts:
        with pa.memory_map(str(part)) as source:
            gathered.append(pa.ipc.open_file(source).read_all())
        if sum(table.num_rows for table in gathered) >= ROWS_PER_GROUP:
            yield _cast(gathered, schema)
            gathered = []
    if gathered:
        yield _cast(gathered, schema)


def _cast(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    joined = pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")
    missing = [field for field in schema if field.name not in joined.column_names]
    for field in missing:
        joined = joined.append_column(field, pa.nulls(joined.num_rows, field.type))
    return joined.select(schema.names).cast(schema)


def _parquet(tables: Iterator[pa.Table], schema: pa.Schema, stream: IO[bytes]) -> int:
    count = 0
    with pq.ParquetWriter(stream, schema) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            count += table.num_rows
    return count


def _arrow(tables: Iterator[pa.Table], schema: pa.Schema, stream: IO[bytes]) -> int:
    count = 0
    with pa.ipc.new_file(stream, schema) as writer:
        for table in tables:
            writer.write_table(table)
            count += table.num_rows
    return count


def _csv(tables: Iterator[pa.Table], schema: pa.Schema, stream: IO[bytes]) -> int:
    count = 0
    for table in tables:
        pa.csv.write_csv(flattened(table), stream, pa.csv.WriteOptions(include_header=count == 0))
        count += table.num_rows
    return count


def _jsonl(tables: Iterator[pa.Table], schema: pa.Schema, stream: IO[bytes]) -> int:
    count = 0
    for table in tables:
        for batch in table.to_batches(max_chunksize=4096):
            stream.write(b"".join(json.dumps(row, default=str).encode() + b"\n" for row in batch.to_pylist()))
        count += table.num_rows
    return count


def _text(tables: Iterator[pa.Table], schema: pa.Schema, stream: IO[bytes]) -> int:
    """Write one line per result, as Azure ML's `parallel_run_step.txt`: the text of a value, or the columns with spaces."""
    count = 0
    for table in tables:
        for batch in flattened(table).to_batches(max_chunksize=4096):
            columns = batch.to_pydict()
            values = columns[RESULT] if list(columns) == [RESULT] else zip(*columns.values(), strict=True)
            lines = [f"{_line(value)}\n" for value in values]
            stream.write("".join(lines).encode())
        count += table.num_rows
    return count


def _line(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flattened(table: pa.Table) -> pa.Table:
    """Return a table without lists of fixed size: one column per element, numbered from 0."""
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_fixed_size_list(column.type):
            size = column.type.list_size
            flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks]) if column.num_chunks else pa.nulls(0)
            indices = range(size)
            columns |= {f"{name}_{index}": flat.take(pa.array(range(index, len(flat), size))) for index in indices}
        else:
            columns[name] = column
    return pa.table(columns)


_Writer = Callable[[Iterator[pa.Table], pa.Schema, IO[bytes]], int]
_WRITERS: dict[str, _Writer] = {".parquet": _parquet, ".arrow": _arrow, ".csv": _csv, ".jsonl": _jsonl, ".txt": _text}
