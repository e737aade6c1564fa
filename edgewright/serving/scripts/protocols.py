"""Arrays and tables for a script that declares them: the Open Inference Protocol, `.npy` and CSV beside JSON.

    arguments    of a request in one of these formats, by the types that the decorators of the script declare
    answer       the result of `run` in the format that the client accepts

A declared array is one tensor. A declared table is one tensor per column. The result is the output `result`, or one output per
field of a dictionary and per column of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError
from edgewright.serving import csv_rows
from edgewright.serving.http.messages import JSON, NPY, HttpError, Request, Response
from edgewright.serving.scripts.messages import VERSION, TensorInterface
from edgewright.serving.scripts.parameter_types import NumpyParameterType, PandasParameterType
from edgewright.serving.scripts.schema import DeclaredSchema
from edgewright.serving.variants import json_protocol, open_inference
from edgewright.serving.variants.inference_request import InferRequest, check
from edgewright.serving.variants.model_description import DATATYPES, tensor_metadata

RESULT = "result"
INFER = "/infer"
"""End of the path of the Open Inference Protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTensors:
    """The arrays, or the one table, that a script declares."""

    arrays: dict[str, NumpyParameterType]
    table: tuple[str, PandasParameterType] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Empty if the script does not declare its output."""

    @classmethod
    def of(cls, schema: DeclaredSchema | None) -> DeclaredTensors | None:
        """Return the tensors of a schema; None if a required parameter is neither an array nor the only table."""
        required = {} if schema is None else {n: kind for n, kind in schema.inputs.items() if n not in schema.optional}
        arrays = {name: kind for name, kind in required.items() if isinstance(kind, NumpyParameterType) and kind.sample.ndim}
        tables = [(name, kind) for name, kind in required.items() if isinstance(kind, PandasParameterType)]
        if schema is None or not required or len(arrays) + len(tables) < len(required) or len(tables) > (0 if arrays else 1):
            return None
        inputs = _columns(tables[0][1]) if tables else tuple(_array(name, kind) for name, kind in arrays.items())
        if any(np.dtype(spec.dtype).name not in DATATYPES for spec in inputs):
            return None
        return cls(arrays=arrays, table=tables[0] if tables else None, inputs=inputs, outputs=_outputs(schema.output))

    def interface(self) -> TensorInterface:
        """Return the description for `GET /v2/models/NAME`."""
        return TensorInterface(platform="python", inputs=tensor_metadata(self.inputs), outputs=tensor_metadata(self.outputs))

    @property
    def media_types(self) -> tuple[str, ...]:
        """Media types of a body besides JSON."""
        if self.table is not None:
            return (csv_rows.MEDIA_TYPE,)
        return (NPY,) if len(self.arrays) == 1 else ()

    def values(self, request: Request, path: str) -> tuple[dict[str, Any], InferRequest | None] | None:
        """Return the fields of a request in one of the formats; None for JSON.

        Raises:
            SamplesError: the tensors, the array or the table do not fit.
            HttpError: the format is not one that this script takes (415).
        """
        if path.endswith(INFER):
            infer, tensors = open_inference.decode(request, self.inputs)
            check(infer, self.outputs or tuple(TensorSpec(name=each.name, dtype="object", shape=()) for each in infer.outputs))
            return self._fields({name: _texts(array) for name, array in tensors.items()}), infer
        if request.media_type not in (NPY, csv_rows.MEDIA_TYPE):
            return None
        if request.media_type not in self.media_types:
            raise HttpError(415, f"Content-Type must be {' or '.join((JSON, *self.media_types))}, not {request.media_type}")
        if self.table is None:
            return {next(iter(self.arrays)): json_protocol.read_npy(request.body)}, None
        return self._fields(self._csv(request.body)), None

    def _fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.table is None:
            return dict(values)
        name, kind = self.table
        return {name: kind.from_columns(values)}

    def _csv(self, body: bytes) -> dict[str, list[Any]]:
        names = [spec.name for spec in self.inputs]
        rows = csv_rows.read_rows(body)
        header = rows[0] if set(rows[0]) & set(names) else names
        if len(header) != len(rows[0]):
            raise SamplesError(f"every line of the CSV must have {len(names)} cells ({', '.join(names)}), not {len(rows[0])}")
        texts = {spec.name for spec in self.inputs if spec.dtype == "object"}
        lines = rows[1:] if header is rows[0] else rows
        cells = {name: [row[at] for row in lines] for at, name in enumerate(header)}
        return {
            name: [text or None if name in texts else csv_rows.cell(text) for text in column] for name, column in cells.items()
        }


def answer(request: Request, result: Any, infer: InferRequest | None, name: str) -> Response | None:
    """Return the result of `run` in the format that the client accepts; None for JSON.

    Raises:
        NotFoundError: a requested output does not exist.
        HttpError: the result does not fit the format (406).
    """
    accepted = request.headers.get("accept", "*/*").lower()
    kind = infer or next((each for each in (NPY, csv_rows.MEDIA_TYPE) if each in accepted), None)
    if kind is None and JSON not in accepted and request.media_type in (NPY, csv_rows.MEDIA_TYPE):
        kind = request.media_type
    if kind is None:
        return None
    outputs = _named(result)
    if infer is not None:
        check(infer, tuple(TensorSpec(name=each, dtype="object", shape=()) for each in outputs))
        return open_inference.encode(infer, outputs, model=name, version=VERSION)
    if kind == csv_rows.MEDIA_TYPE:
        return Response(200, csv_rows.write_rows(outputs), f"{kind}; charset=utf-8")
    return json_protocol.encode(request, outputs, None)


def _named(result: Any) -> Tensors:
    if hasattr(result, "columns"):
        return {str(column): _plain(result[column].to_numpy()) for column in result.columns}
    if isinstance(result, Mapping):
        return {str(name): _plain(value) for name, value in result.items()}
    return {RESULT: _plain(result)}


def _plain(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    array = array.astype(object) if array.dtype.kind in "US" else array
    if array.dtype.name not in DATATYPES or (array.dtype.hasobject and not all(isinstance(each, str) for each in array.flat)):
        raise HttpError(406, f"the result of the script must be numbers or texts in regular lists; ask for {JSON} at /score")
    return array.reshape(1) if array.ndim == 0 else array


def _array(name: str, kind: NumpyParameterType) -> TensorSpec:
    dtype = "object" if kind.sample.dtype.kind in "US" else kind.sample.dtype.name
    return TensorSpec(name=name, dtype=dtype, shape=("N", *kind.sample.shape[1:]))


def _columns(kind: PandasParameterType) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=str(name), dtype=dtype.name if dtype.kind in "fiub" and dtype.name in DATATYPES else "object", shape=("N",)
        )
        for name, dtype in kind.sample.dtypes.items()
    )


def _outputs(kind: Any) -> tuple[TensorSpec, ...]:
    if isinstance(kind, NumpyParameterType) and kind.sample.dtype.name in DATATYPES:
        return (_array(RESULT, kind),)
    return _columns(kind) if isinstance(kind, PandasParameterType) else ()


def _texts(array: Any) -> Any:
    """Return an array as a schema's types take it: texts as NumPy's own."""
    return array.astype(str) if array.dtype.kind == "O" else array
