"""Documents that describe a script's or model's service: OpenAPI 3.1, and Swagger 2.0 for clients of Azure ML's services."""

from __future__ import annotations

from typing import Any

from edgewright.serving.http import documents
from edgewright.serving.http.documents import operation, reading
from edgewright.serving.http.messages import JSON
from edgewright.serving.scripts.messages import VERSION, Started
from edgewright.serving.variants.openapi import INFERENCE_SCHEMAS, inference_paths

_BYTES = {"schema": {"type": "string", "format": "binary"}}


def openapi(name: str, started: Started) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    others = dict.fromkeys(started.media_types, _BYTES)
    body = {JSON: {"schema": input_schema(started), **_example(started)}, **others}
    answer = {"*/*": {}} if started.chooses_response else {JSON: {"schema": _with_nan(started.output)}, **others}
    paths: dict[str, tuple[str, dict[str, Any]]] = {"/score": ("post", operation("Score a request.", body, answer, name="score"))}
    if started.tensors is not None:
        base = f"/v2/models/{name}"
        paths |= {**inference_paths(base), f"{base}/ready": ("get", reading("Return 200 if a worker is ready."))}
    description = "Scores with worker processes."
    described = documents.document(name, version=str(VERSION), description=description, paths=paths)
    operations = described["paths"]["/score"]
    if started.body is None:
        operations["get"] = _reading_score(answer)
    if started.chooses_response:
        for each in operations.values():
            each["responses"]["default"] = {"description": "The script chooses the status.", "content": {"*/*": {}}}
    if started.tensors is not None:
        described["components"]["schemas"] |= INFERENCE_SCHEMAS
    return described


def swagger(name: str, started: Started) -> dict[str, Any]:
    """Return the Swagger 2.0 document."""
    body, output = input_schema(started), started.output
    return documents.swagger(name, version="1.0", body=body, answer=output, example=started.sample)


def input_schema(started: Started) -> dict[str, Any]:
    """Return the schema of the body: an object with the declared parameters, or anything."""
    if started.body is not None:
        return started.body
    if not started.inputs:
        return {}
    required = [name for name in started.inputs if name not in started.optional]
    return {"type": "object", "properties": started.inputs, "required": required, "additionalProperties": False}


def _reading_score(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the operation that passes the query to a script: each parameter is a text."""
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    parameter = {"name": "parameters", "in": "query", "style": "form", "explode": True, "schema": texts}
    described = operation("Score a request that the query holds.", {}, answer, name="scoreQuery")
    del described["requestBody"]
    return described | {"parameters": [parameter]}


def _with_nan(schema: Any) -> Any:
    """Return the schema of a result, in which a number may be null: NaN and infinity, which JSON cannot hold."""
    if isinstance(schema, list):
        return [_with_nan(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    nullable = {name: value if name == "example" else _with_nan(value) for name, value in schema.items()}
    return nullable | {"type": ["number", "null"]} if schema.get("type") == "number" else nullable


def _example(started: Started) -> dict[str, Any]:
    return {} if started.sample is None else {"example": started.sample}
