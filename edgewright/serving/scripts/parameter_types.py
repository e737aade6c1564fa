"""Types of the values in requests and responses, each derived from a sample.

Names and signatures are those of Azure's inference-schema (MIT), so that old scripts run unchanged.
"""

from __future__ import annotations

import abc
import datetime as dates
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgewright.errors import SamplesError, one_line
from edgewright.serving.variants.tensors import holds_booleans


class ParameterType(abc.ABC):
    """Type of a value in a request or response, derived from a sample; a subclass converts and describes it."""

    @abc.abstractmethod
    def to_python(self, value: Any, name: str) -> Any:
        """Convert a JSON value to what `run` takes.

        Raises:
            SamplesError: it does not fit; the text begins with `name`.
        """

    @abc.abstractmethod
    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the value."""

    @abc.abstractmethod
    def example(self) -> Any:
        """Return the sample as JSON holds it."""


class NumpyParameterType(ParameterType):
    """An array: nested lists in JSON."""

    def __init__(
        self,
        input_to_convert: Any,
        enforce_column_type: bool = True,
        enforce_shape: bool = True,
    ) -> None:
        """Derive the type from an array: its dtype with `enforce_column_type`, all axes but the first with `enforce_shape`."""
        self.sample = np.asarray(input_to_convert)
        self._converts, self._checks_shape = enforce_column_type, enforce_shape

    def to_python(self, value: Any, name: str) -> Any:
        """Return an array with the dtype of the sample."""
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise SamplesError(f"{name} must be nested lists of equal lengths: {one_line(error)}") from error
        expected = f"{self.sample.dtype}{_shape_text(self.sample.shape)}"
        if array.dtype.hasobject or _kind(array) != _kind(self.sample):
            raise SamplesError(f"{name} must be {expected}, but {_found(value, array)} was received")
        if array.dtype.kind in "fiu" and holds_booleans(value):
            raise SamplesError(f"{name} must be {expected}, but true or false was received")
        fits = array.ndim == self.sample.ndim and array.shape[1:] == self.sample.shape[1:]
        if self._checks_shape and not fits:
            raise SamplesError(f"{name} must be {expected}, but the shape {list(array.shape)} was received")
        return self._converted(array, name) if self._converts else array

    def json_schema(self) -> dict[str, Any]:
        """Return nested arrays of numbers, texts or truth values."""
        schema: dict[str, Any] = {"type": _JSON_TYPES.get(self.sample.dtype.kind, "string")}
        for axis, size in reversed(list(enumerate(self.sample.shape))):
            sizes = {"minItems": size, "maxItems": size} if axis > 0 and self._checks_shape else {}
            schema = {"type": "array", "items": schema, **sizes}
        return schema

    def example(self) -> Any:
        """Return nested lists."""
        return self.sample.tolist()

    def _converted(self, array: Any, name: str) -> Any:
        if self.sample.dtype.kind not in "fiub":  # a text may be longer than those of the sample
            return array
        with np.errstate(invalid="ignore"):
            converted = array.astype(self.sample.dtype, copy=False)
        if self.sample.dtype.kind in "iu" and not np.array_equal(converted, array):
            raise SamplesError(f"{name} must be {self.sample.dtype}, but it holds numbers that are not")
        return converted


class PandasParameterType(ParameterType):
    """A table: a list of records, or what `orient` names, in JSON; a missing or null cell of an optional column is NaN."""

    def __init__(
        self,
        input_to_convert: Any,
        enforce_column_type: bool = True,
        enforce_shape: bool = True,
        apply_column_names: bool = False,
        orient: str = "records",
    ) -> None:
        """Derive the type from a data frame; `enforce_shape` requires every column."""
        self.sample = input_to_convert
        self._converts, self._checks_shape = enforce_column_type, enforce_shape
        self._names_columns, self._orient = apply_column_names, orient

    def to_python(self, value: Any, name: str) -> Any:
        """Return a data frame with the columns and dtypes of the sample."""
        import pandas

        try:
            frame = pandas.DataFrame(**value) if self._orient == "split" else pandas.DataFrame(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise SamplesError(f"{name} must be a table as JSON ({self._orient}): {one_line(error)}") from error
        columns = list(self.sample.columns)
        if self._names_columns and len(frame.columns) == len(columns):
            frame.columns = columns
        missing = [column for column in columns if column not in frame.columns]
        if missing and self._checks_shape:
            raise SamplesError(f"{name} must have the columns {', '.join(map(str, columns))}, but {missing[0]} is missing")
        return self._converted(frame, name) if self._converts else frame

    def from_columns(self, columns: Mapping[str, Any]) -> Any:
        """Return the JSON value of a table that is given by columns, as `to_python` takes it."""
        listed = {name: column.tolist() if hasattr(column, "tolist") else column for name, column in columns.items()}
        if self._orient == "split":
            return {"columns": list(listed), "data": [list(row) for row in zip(*listed.values(), strict=False)]}
        return listed

    def json_schema(self) -> dict[str, Any]:
        """Return an array of objects with one property per column, or for the orient `split` an object with rows."""
        columns = {str(column): self._cell_schema(column) for column in self.sample.columns}
        if self._orient == "split":
            row = {"type": "array", "minItems": len(columns), "maxItems": len(columns)}
            names = {"type": "array", "items": {"type": "string"}}
            properties = {"columns": names, "data": {"type": "array", "items": row}, "index": {"type": "array"}}
            return {"type": "object", "properties": properties, "required": ["columns", "data"]}
        required = {"required": list(columns)} if self._checks_shape else {}
        return {"type": "array", "items": {"type": "object", "properties": columns, **required}}

    def example(self) -> Any:
        """Return the sample's records; missing cells are null."""
        return json.loads(self.sample.to_json(orient=self._orient, date_format="iso"))

    def _cell_schema(self, column: Any) -> dict[str, Any]:
        """Return the schema of a cell; null is a missing number or text, and a column of texts takes numbers, too."""
        cells = self.sample[column]
        if cells.dtype.kind == "O":
            return {"type": ["string", "number", "boolean", "null"]}
        kind = _JSON_TYPES.get(cells.dtype.kind, "string")
        is_nullable = cells.dtype.kind == "f" or bool(cells.isna().any())
        return {"type": [kind, "null"] if is_nullable else kind}

    def _converted(self, frame: Any, name: str) -> Any:
        for column in self.sample.columns:
            if column in frame.columns:
                frame[column] = _column(frame[column], self.sample[column].dtype, f"column {column} of {name}")
        return frame


class StandardPythonParameterType(ParameterType):
    """A number, text, truth value, date, list or dictionary; values of a dictionary may be parameter types themselves."""

    def __init__(self, input_to_convert: Any) -> None:
        """Derive the type from a value."""
        self.sample = input_to_convert

    def to_python(self, value: Any, name: str) -> Any:
        """Return a value of the sample's type; fields of a nested type are converted by their own."""
        sample = self.sample
        if isinstance(sample, Mapping):
            return self._object(value, name, sample)
        if isinstance(sample, dates.date | dates.time | dates.timedelta):
            return _moment(value, type(sample), name)
        wanted: type[Any] | tuple[type[Any], ...] = (int, float) if type(sample) is float else type(sample)
        if not isinstance(value, wanted) or (isinstance(value, bool) and type(sample) is not bool):
            raise SamplesError(f"{name} must be {_python_name(sample)}, but {_python_name(value)} was received")
        return float(value) if type(sample) is float else value

    def json_schema(self) -> dict[str, Any]:
        """Return the schema of the sample, recursively."""
        return _schema_of(self.sample)

    def example(self) -> Any:
        """Return the sample with nested types as their examples."""
        return _example_of(self.sample)

    def _object(self, value: Any, name: str, sample: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise SamplesError(f"{name} must be an object, but {_python_name(value)} was received")
        missing = [key for key in sample if key not in value]
        if missing:
            raise SamplesError(f"{name} must have the field {missing[0]}, but it is missing")
        converted = dict(value)
        for key, kind in sample.items():
            if isinstance(kind, ParameterType):
                converted[key] = kind.to_python(value[key], f"{name}.{key}")
        return converted


_JSON_TYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}
_PYTHON_TYPES: dict[type[Any], str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _schema_of(sample: Any) -> dict[str, Any]:
    if isinstance(sample, ParameterType):
        return sample.json_schema()
    if isinstance(sample, Mapping):
        properties = {str(key): _schema_of(value) for key, value in sample.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(sample, list | tuple):
        return {"type": "array", "items": _schema_of(sample[0]) if sample else {}}
    if isinstance(sample, dates.datetime):
        return {"type": "string", "format": "date-time"}
    if isinstance(sample, dates.date):
        return {"type": "string", "format": "date"}
    return {"type": _PYTHON_TYPES.get(type(sample), "string")}


def _example_of(sample: Any) -> Any:
    if isinstance(sample, ParameterType):
        return sample.example()
    if isinstance(sample, Mapping):
        return {str(key): _example_of(value) for key, value in sample.items()}
    if isinstance(sample, list | tuple):
        return [_example_of(value) for value in sample]
    if isinstance(sample, dates.timedelta):
        return sample.total_seconds()
    return sample.isoformat() if isinstance(sample, dates.date | dates.time) else sample


def _moment(value: Any, kind: type[Any], name: str) -> Any:
    if kind is dates.timedelta and isinstance(value, int | float):
        return dates.timedelta(seconds=value)
    try:
        return kind.fromisoformat(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise SamplesError(f"{name} must be a {kind.__name__} in ISO 8601, but {value!r} was received") from error


def _column(column: Any, wanted: Any, name: str) -> Any:
    if wanted.kind in "fiu" and column.dtype.kind in "bO" and any(isinstance(value, bool) for value in column):
        raise SamplesError(f"{name} must hold {wanted}, but it holds true or false")
    if wanted.kind == "O" and any(isinstance(value, list | dict) for value in column):
        raise SamplesError(f"{name} must hold single values, but it holds a list or an object")
    try:
        converted = column.astype(wanted)
    except (ValueError, TypeError, OverflowError) as error:
        raise SamplesError(f"{name} must hold {wanted}: {one_line(error)}") from error
    if wanted.kind in "iub" and not (converted == column).all():
        raise SamplesError(f"{name} must hold {wanted}, but it holds values that are not")
    return converted


def _kind(array: Any) -> str:
    kind: str = array.dtype.kind
    return "number" if kind in "fiu" else kind


def _found(value: Any, array: Any) -> str:
    held = {"U": "texts", "b": "booleans", "O": "values of several types"}.get(array.dtype.kind, "numbers")
    return _python_name(value) if array.ndim == 0 else f"a list with {held}"


def _python_name(value: Any) -> str:
    names: list[tuple[type[Any], str]] = [(bool, "a boolean"), (int, "an integer"), (float, "a number"), (str, "a text")]
    names += [(list, "a list"), (tuple, "a list"), (dict, "an object"), (type(None), "null")]
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(["n", *map(str, shape[1:])] if shape else []) + "]"
