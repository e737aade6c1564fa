"""Names and types of the columns that tables, queries and dashboards use for a model's inputs and outputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from edgewright.errors import BadInputError
from edgewright.export.model import Column, ExportedModel

MOST_COLUMNS = 1000
"""Columns of one input or output beyond which a row of single numbers is not a usable form."""
LARGEST_IN_TABLE = 500_000
"""Bytes of a model that Data Explorer keeps in a table: twice as many hexadecimal digits, below the 1 MB of a string."""
_SQL = {"float32": "FLOAT", "float16": "FLOAT", "float64": "DOUBLE", "bool": "BOOLEAN"}
_SPARK = {"float32": "float", "float16": "float", "float64": "double", "bool": "boolean"}


@dataclass(frozen=True, slots=True)
class Stored:
    """The parts of a query that depend on the place of the model: commands that store it, the line that reads it, arguments."""

    commands: str
    model_line: str
    arguments: str
    is_in_table: bool


def literal(value: object) -> str:
    """Return Python source text of a value of strings, numbers, lists, tuples and dictionaries, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def identifier(name: str) -> str:
    """Return a name of letters, digits and underscores that does not begin with a digit."""
    cleaned = _cleaned(name)
    return f"_{cleaned}" if not cleaned or cleaned[0].isdigit() else cleaned


def _cleaned(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def columns_of(model: ExportedModel) -> tuple[str, ...]:
    """Return one column name per input."""
    return tuple(identifier(column.name) for column in model.inputs)


def flat_columns(model: ExportedModel) -> list[tuple[str, ...]]:
    """Return the column names of each input, one per number.

    Raises:
        BadInputError: an input has more numbers than a table has columns.
    """
    for column in (*model.inputs, model.output):
        if column.size > MOST_COLUMNS:
            raise BadInputError(
                f"a table has one column per number, up to {MOST_COLUMNS}, but {column.name} has {column.size} per row: "
                "use spark, duckdb, csharp or java"
            )
    return [
        (name,) if column.size == 1 else tuple(f"{name}_{number}" for number in range(column.size))
        for name, column in zip(columns_of(model), model.inputs, strict=True)
    ]


def result_names(model: ExportedModel) -> tuple[str, ...]:
    """Return the names of the result's columns: the labels, if there is one per number."""
    if len(model.labels) == model.output.size:
        names = tuple(f"{identifier(model.output.name)}_{_cleaned(label)}" for label in model.labels)
        if len(set(names)) == len(names):
            return names
    if model.output.size == 1:
        return (identifier(model.output.name),)
    return tuple(f"{identifier(model.output.name)}_{number}" for number in range(model.output.size))


def sql_type(column: Column, *, single: bool) -> str:
    """Return DuckDB's type of an input or output: a number, or a list of numbers."""
    return _SQL.get(column.dtype, column_integer(column).upper()) + ("" if single else "[]")


def column_integer(column: Column) -> str:
    """Return the SQL type of integers with the size and the sign of the column's."""
    sizes = {"8": "tinyint", "16": "smallint", "32": "integer", "64": "bigint"}
    bits = column.dtype.lstrip("uint")
    return ("u" if column.dtype.startswith("u") else "") + sizes.get(bits, "bigint")


def spark_type(column: Column) -> str:
    """Return Spark's type of the result, a list of numbers."""
    integers = {"int8": "tinyint", "int16": "smallint", "int32": "int", "uint8": "smallint", "uint16": "int"}
    return f"array<{_SPARK.get(column.dtype) or integers.get(column.dtype, 'bigint')}>"


def kusto_type(column: Column) -> str:
    """Return Data Explorer's type of a result."""
    return "bool" if column.dtype == "bool" else "real" if column.dtype.startswith("float") else "long"


def kusto_stored(name: str, raw: bytes, artifact_url: str | None) -> Stored:
    """Return where Data Explorer finds the model: in a table, or outside if it is large or an address is given.

    Raises:
        BadInputError: it is too large for a table, and there is no address.
    """
    if artifact_url is not None:
        blob = "/".join(artifact_url.split("?")[0].split("/")[2:])
        allowed = re.escape(blob).replace("\\", "\\\\").replace('"', "")
        commands = (
            "// Upload model.onnx to the address below, and allow the cluster to read it:\n"
            '.alter-merge cluster policy callout @\'[{"CalloutType": "sandbox_artifacts", '
            f'"CalloutUriRegex": "{allowed}", "CanCall": true}}]\'\n'
        )
        arguments = f"bag_pack('features', features), external_artifacts = bag_pack('model.onnx', '{artifact_url}')"
        return Stored(commands, "", arguments, is_in_table=False)
    if len(raw) > LARGEST_IN_TABLE:
        raise BadInputError(
            f"a model in a table of Data Explorer must have up to {LARGEST_IN_TABLE} bytes, but {name} has {len(raw)}: upload "
            "model.onnx to a blob storage and name its address with --artifact-url, or export a quantized variant"
        )
    commands = (
        ".create-merge table Models (name:string, timestamp:datetime, model:string)\n\n"
        ".alter column Models.model policy encoding type='BigObject'\n\n"
        f".set-or-append Models <| print name='{name}', timestamp=now(), model='{raw.hex()}'\n"
    )
    line = f"    let model = toscalar(Models | where name == '{name}' | top 1 by timestamp desc | project model);\n"
    return Stored(commands, line, "bag_pack('model', model, 'features', features)", is_in_table=True)
