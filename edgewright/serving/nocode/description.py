"""Describe a loaded model for the documents of the service (JSON Schema) and for the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from edgewright.serving import csv_rows
from edgewright.serving.http.messages import NPY
from edgewright.serving.nocode.model import LoadedModel
from edgewright.serving.scripts.messages import Started, TensorInterface
from edgewright.serving.variants.model_description import tensor_metadata
from edgewright.serving.variants.openapi import array_schema, example


def describe(model: LoadedModel) -> Started:
    """Return the declarations of a model: the body, an example, the media types and the tensors."""
    media_types = (NPY, csv_rows.MEDIA_TYPE) if model.is_table else (NPY,) if len(model.inputs) == 1 else ()
    return Started(
        uses_raw_requests=True,
        reads_headers=True,
        body=_body(model),
        output={"type": "object", "required": ["result"], "properties": {"result": {}}},
        sample=_sample(model),
        media_types=media_types,
        tensors=TensorInterface(
            platform=f"{model.framework}_{model.version}",
            inputs=tensor_metadata(model.inputs),
            outputs=tensor_metadata(model.output_specs),
        ),
    )


def _body(model: LoadedModel) -> dict[str, Any]:
    named = {
        "type": "object",
        "required": [spec.name for spec in model.inputs],
        "properties": {spec.name: array_schema(spec) for spec in model.inputs},
    }
    values: dict[str, Any] = named
    if model.columns:
        row = {"type": "array", "minItems": model.width, "maxItems": model.width}
        record = {"type": "object", "required": list(model.columns), "properties": {name: {} for name in model.columns}}
        rows = {"type": "array", "minItems": 1, "items": row}
        values = {"anyOf": [{"type": "array", "minItems": 1, "items": record}, rows, named]}
    elif len(model.inputs) == 1:
        values = {"anyOf": [array_schema(model.inputs[0]), named]}
    method = {"type": "string", "enum": list(model.methods), "default": next(iter(model.methods))}
    return {"type": "object", "required": ["data"], "properties": {"data": values, "method": method}}


def _sample(model: LoadedModel) -> dict[str, Any]:
    """Return the body of a request that the model can read; the values are zeros and empty texts."""
    if model.columns:
        return {"data": [{spec.name: "" if spec.dtype == "object" else 0.0 for spec in model.inputs}]}
    return {"data": example(model.inputs)}
