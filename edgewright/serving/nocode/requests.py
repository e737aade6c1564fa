"""Read the values for a model from a request: JSON in the forms that services of the field take, CSV, `.npy`, and tensors.

    {"data": [[...], ...]}                         rows; of a model with named columns in the model's order
    {"data": [{"age": 3, "city": "Bern"}, ...]}    records
    {"data": {"age": [3], "city": ["Bern"]}}       columns, or input tensors, by name
    {"data": {"columns": [...], "data": [...]}}    the form `split` of pandas
    {"data": ..., "method": "predict_proba"}       another method of the model than the first (Azure ML's no-code services)
    {"Inputs": {"data": ...}, "GlobalParameters": {"method": ...}}      Azure ML designer and automated ML
    {"input_data": ...}, {"instances": ...}        the same values under the names of MLflow and TensorFlow Serving

`null` and an empty cell of CSV are missing values: NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.contracts.samples import Tensors, check_inputs
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError
from edgewright.serving import csv_rows
from edgewright.serving.http.messages import FORM, JSON, NPY, HttpError, Request, parse_json
from edgewright.serving.nocode.model import TABLE, LoadedModel
from edgewright.serving.variants import json_protocol, open_inference
from edgewright.serving.variants.inference_request import InferRequest, check
from edgewright.serving.variants.tensors import as_dtype, from_nested

ANSWERS = {"data": "result", "input_data": "result", "instances": "predictions", "Inputs": "Results"}
"""Field of the request that holds the values, and field of the answer that holds the result."""
_METHOD = "method"
_SPLIT = frozenset({"columns", "data", "index"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Decoded values, and the wanted answer."""

    values: Any
    """A table, or tensors by name: the argument of a method of `LoadedModel`."""
    methods: tuple[str, ...]
    answer_field: str = "result"
    infer: InferRequest | None = None
    """The request, if it follows the Open Inference Protocol."""


def decode(request: Request, model: LoadedModel) -> Scoring:
    """Read a request to `/score`.

    Raises:
        SamplesError: the values do not fit the model; the text names the field, the expected and the received.
        HttpError: the body cannot be read (400), or has another media type (415).
    """
    default = next(iter(model.methods))
    if request.media_type == NPY:
        return Scoring(values=_from_array(json_protocol.read_npy(request.body), model), methods=(default,))
    if request.media_type == csv_rows.MEDIA_TYPE:
        return Scoring(values=_from_csv(request.body, model), methods=(default,))
    if request.media_type not in (JSON, FORM, ""):
        raise HttpError(415, f"Content-Type must be {JSON}, {NPY} or {csv_rows.MEDIA_TYPE}, not {request.media_type}")
    document = parse_json(request.body, "the body")
    field, value, method = _fields(document, default)
    if not isinstance(method, str) or method not in model.methods:
        raise SamplesError(f"method must be one of {', '.join(model.methods)}, but {method!r} was received")
    return Scoring(values=_from_json(value, model), methods=(method,), answer_field=ANSWERS[field])


def decode_tensors(request: Request, model: LoadedModel) -> Scoring:
    """Read a request of the Open Inference Protocol; requested outputs that are methods of the model choose those methods."""
    infer, tensors = open_inference.decode(request, model.inputs)
    check(infer, model.output_specs)
    checked = check_inputs(tensors, model.inputs)
    wanted = tuple(output.name for output in infer.outputs if output.name in model.methods)
    methods = wanted or (next(iter(model.methods)),)
    return Scoring(values=_assembled(checked, model) if model.is_table else checked, methods=methods, infer=infer)


def _fields(document: Any, default: str) -> tuple[str, Any, Any]:
    """Return the name of the field with the values, the values, and the method."""
    if not isinstance(document, dict):
        raise HttpError(400, 'the body must be a JSON object with the field "data"')
    present = [name for name in ANSWERS if name in document]
    if len(present) != 1:
        raise HttpError(400, f'the body must have the field "data" with the values, but it has {_listed(document)}')
    field, value = present[0], document[present[0]]
    parameters = document
    if field == "Inputs":
        value = value.get("data", value.get("input1", value)) if isinstance(value, dict) else value
        parameters = document.get("GlobalParameters") or {}
    elif field == "data" and "columns" in document:
        value = {name: document[name] for name in _SPLIT if name in document}
    known = {field, _METHOD, "GlobalParameters", *(_SPLIT if field == "data" else ())}
    unknown = [name for name in document if name not in known]
    if unknown:
        raise SamplesError(f'the fields of the body must be "data" and "method", but {unknown[0]!r} was received')
    return field, value, parameters.get(_METHOD, default) if isinstance(parameters, dict) else default


def _from_json(value: Any, model: LoadedModel) -> Any:
    if not model.is_table:
        named = value if isinstance(value, dict) else {model.inputs[0].name: value}
        if len(model.inputs) > 1 and not isinstance(value, dict):
            raise SamplesError(f'"data" must be an object with one entry per input: {_inputs(model)}')
        specs = {spec.name: spec for spec in model.inputs}
        unknown = [name for name in named if name not in specs]
        if unknown:
            raise SamplesError(f"unknown input {unknown[0]}: the model's inputs are {_inputs(model)}")
        return check_inputs({name: from_nested(nested, specs[name]) for name, nested in named.items()}, model.inputs)
    if isinstance(value, dict) and set(value) <= _SPLIT and "columns" in value:
        return _from_rows(value.get("data"), model, _names(value["columns"]))
    if isinstance(value, dict) and list(value) == [TABLE] and not model.columns:
        value = value[TABLE]
    if isinstance(value, dict):
        return _from_columns(value, model)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _from_columns(_of_records(value), model)
    return _from_rows(value, model, None)


def _names(columns: Any) -> list[str]:
    if not isinstance(columns, list) or not all(isinstance(name, str | int) for name in columns):
        raise SamplesError('"columns" must be a list of names')
    return [str(name) for name in columns]


def _of_records(records: list[Any]) -> dict[str, list[Any]]:
    names = list(records[0])
    for number, record in enumerate(records):
        if not isinstance(record, dict) or set(record) != set(names):
            raise SamplesError(f"every record must have the fields {', '.join(names)}, but record {number} has others")
    return {name: [record[name] for record in records] for name in names}


def _from_rows(rows: Any, model: LoadedModel, names: list[str] | None) -> Any:
    """Return the table of a list of rows, whose columns are `names`, or else in the order of the model."""
    if model.columns or names is not None:
        listed = names or list(model.columns)
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(listed) for row in rows):
            lists = [row for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
            found = next((len(row) for row in lists if len(row) != len(listed)), None)
            received = "it is not" if found is None else f"a row with {found} was received"
            raise SamplesError(f'"data" must be a list of rows with {len(listed)} values ({", ".join(listed)}), but {received}')
        return _from_columns({name: [row[index] for row in rows] for index, name in enumerate(listed)}, model)
    spec = model.inputs[0]
    return _from_array(from_nested(_with_nan(rows), spec), model)


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return [_with_nan(each) for each in value]
        return [float("nan") if each is None else each for each in value] if None in value else value
    return value


def _from_columns(columns: dict[str, Any], model: LoadedModel) -> Any:
    """Return the table of columns by name."""
    if not model.columns:
        listed = [columns[name] for name in columns]
        return _from_rows([list(row) for row in zip(*map(_listed_values, listed), strict=False)], model, None)
    unknown = [name for name in columns if name not in model.columns]
    if unknown:
        raise SamplesError(f"unknown column {unknown[0]!r}: the columns of the model are {', '.join(model.columns)}")
    missing = [name for name in model.columns if name not in columns]
    if missing:
        raise SamplesError(f"column {missing[0]!r} is missing: the columns of the model are {', '.join(model.columns)}")
    converted = {spec.name: _column(columns[spec.name], spec) for spec in model.inputs}
    lengths = {name: len(column) for name, column in converted.items()}
    if len(set(lengths.values())) > 1:
        raise SamplesError(f"every column must have the same number of rows, not {lengths}")
    if 0 in lengths.values():
        raise SamplesError("at least one row is needed, but the table has none")
    return _assembled(converted, model)


def _listed_values(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _column(values: Any, spec: TensorSpec) -> Any:
    """Return one column; the strict conversion of the tensors also names it in its errors."""
    if not isinstance(values, list):
        raise SamplesError(f"column {spec.name!r} must be a list of values")
    if spec.dtype != "object":
        column = from_nested(_with_nan(values), spec)
        if column.ndim != 1:
            raise SamplesError(f"column {spec.name!r} must be a list of values, but they are nested")
        return column
    wrong = next((value for value in values if value is not None and not isinstance(value, str)), None)
    if wrong is not None:
        raise SamplesError(f"column {spec.name!r} must hold text, but {wrong!r} was received")
    return np.array([np.nan if value is None else value for value in values], dtype=object)


def _assembled(columns: Tensors, model: LoadedModel) -> Any:
    """Return the table of checked columns, or of the one tensor with all of them."""
    if not model.columns:
        return columns[TABLE]
    if not model.needs_frame:
        return np.column_stack([columns[name] for name in model.columns])
    import pandas

    return pandas.DataFrame({name: columns[name] for name in model.columns})


def _from_array(array: Any, model: LoadedModel) -> Any:
    """Return the values of one array: the table, or the only input."""
    if model.columns:
        if array.ndim != 2 or array.shape[1] != model.width or not len(array):
            raise SamplesError(f"the array must have shape [N, {model.width}] with at least one row, not {list(array.shape)}")
        return _from_columns({name: array[:, index].tolist() for index, name in enumerate(model.columns)}, model)
    if len(model.inputs) > 1:
        raise SamplesError(f"{NPY} holds one array, but the model has several inputs: {_inputs(model)}; send JSON")
    spec = model.inputs[0]
    checked = check_inputs({spec.name: as_dtype(array, spec)}, model.inputs)
    return checked[spec.name] if model.is_table else checked


def _from_csv(body: bytes, model: LoadedModel) -> Any:
    if not model.is_table:
        raise HttpError(415, f"{csv_rows.MEDIA_TYPE} is for models of tables, but this one takes {_inputs(model)}")
    rows = csv_rows.read_rows(body)
    header = _header(rows[0], model)
    listed = header or list(model.columns) or [str(index) for index in range(len(rows[0]))]
    if len(listed) != len(rows[0]):
        raise SamplesError(f"every line of the CSV must have {len(listed)} cells ({', '.join(listed)}), not {len(rows[0])}")
    texts = {spec.name for spec in model.inputs if spec.dtype == "object"}
    columns = {
        name: [(row[index] or None) if name in texts else csv_rows.cell(row[index]) for row in rows[1 if header else 0 :]]
        for index, name in enumerate(listed)
    }
    return _from_columns(columns, model)


def _header(first: list[str], model: LoadedModel) -> list[str] | None:
    """Return the names in the first line; None if it holds values."""
    if model.columns:
        return first if set(first) & set(model.columns) else None
    return first if not any(isinstance(csv_rows.cell(text), float) for text in first) else None


def _inputs(model: LoadedModel) -> str:
    return ", ".join(map(str, model.inputs))


def _listed(document: dict[str, Any]) -> str:
    return ", ".join(map(repr, list(document)[:5])) or "no field"
