"""The OpenAPI document of a scoring server (`GET /openapi.json`), derived from the variant's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewright.contracts.variant import TensorSpec, VariantConfig
from edgewright.serving.http.messages import BINARY, JSON, NPY
from edgewright.serving.variants.images import ImageInput

_KINDS = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}


def document(config: VariantConfig, *, model: str, version: int) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server of `config`."""
    infer = f"/v2/models/{model}/infer"
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{model} {version}", "version": str(version), "description": "Scores one version of one model."},
        "paths": {
            "/score": {"post": _operation("Score samples.", _score_body(config), _score_response(config))},
            infer: {"post": _operation("Score by the Open Inference Protocol 2.", _infer_body(), _infer_response())},
            f"/v2/models/{model}": {"get": _reading("Describe the model.")},
            f"/v2/models/{model}/ready": {"get": _reading("Return 200 if the model is ready.")},
            "/v2": {"get": _reading("Describe the server.")},
            "/v2/health/live": {"get": _reading("Return 200 if the server is alive.")},
            "/v2/health/ready": {"get": _reading("Return 200 if the server is ready.")},
            "/healthz": {"get": _reading("Return the model, version and variant that are served.")},
            "/stats": {"get": _reading("Return counts, latency over the last requests and predictions by class.")},
            "/metrics": {"get": _reading("Return the same for Prometheus.", "text/plain")},
        },
        "components": {
            "schemas": {
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
            }
        },
    }


def array_schema(spec: TensorSpec) -> dict[str, Any]:
    """Return the JSON Schema of a tensor as nested arrays."""
    schema: dict[str, Any] = {"type": _KINDS[np.dtype(spec.dtype).kind]}
    for axis in reversed(range(len(spec.shape))):
        size = spec.shape[axis]
        schema = {"type": "array", "items": schema}
        if axis > 0 and isinstance(size, int):  # the first axis counts samples, whatever the graph's batch size is
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _one_or_named(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    named = {
        "type": "object",
        "required": [spec.name for spec in specs],
        "properties": {spec.name: array_schema(spec) for spec in specs},
    }
    return {"anyOf": [array_schema(specs[0]), named]} if len(specs) == 1 else named


def _score_body(config: VariantConfig) -> dict[str, Any]:
    schema = {"type": "object", "required": ["data"], "properties": {"data": _one_or_named(config.inputs)}}
    body: dict[str, Any] = {JSON: {"schema": schema}, NPY: {"schema": {"type": "string", "format": "binary"}}}
    if ImageInput.of(config) is not None:
        images = {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}}
        encoded = {"type": "object", "required": ["images"], "properties": {"images": images}}
        body[JSON] = {"schema": {"anyOf": [schema, encoded]}}
        body |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")}
    return body


def _score_response(config: VariantConfig) -> dict[str, Any]:
    outputs = config.outputs
    named = {"type": "object", "properties": {spec.name: array_schema(spec) for spec in outputs}}
    properties: dict[str, Any] = {"result": array_schema(outputs[0]) if len(outputs) == 1 else named}
    if config.labels:
        properties["labels"] = {"type": "array", "items": {"type": "string", "enum": list(config.labels)}}
    schema = {"type": "object", "required": ["result"], "properties": properties}
    return {JSON: {"schema": schema}, NPY: {"schema": {"type": "string", "format": "binary"}}}


def _infer_body() -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string"},
            "data": {},
            "parameters": {"type": "object"},
        },
    }
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor}},
    }
    return {JSON: {"schema": schema}, BINARY: {"schema": {"type": "string", "format": "binary"}}}


def _infer_response() -> dict[str, Any]:
    schema = {"type": "object", "required": ["model_name", "outputs"]}
    return {JSON: {"schema": schema}, BINARY: {"schema": {"type": "string", "format": "binary"}}}


def _operation(summary: str, body: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    errors = {
        "400": "Inputs that do not fit the model; the text states the expected and the received.",
        "413": "The body is too large.",
        "415": "An unsupported Content-Type.",
        "500": "The model failed.",
        "504": "The model did not answer within the time limit.",
        "503": "Too many requests are waiting.",
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": "The outputs.", "content": response},
            **{status: {"description": text, "content": error} for status, text in errors.items()},
        },
    }


def _reading(summary: str, media_type: str = JSON) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "The document.", "content": {media_type: {}}}}}
