"""Documents that describe a script's service: OpenAPI 3.1, and Swagger 2.0 for clients of Azure ML's services."""

from __future__ import annotations

from typing import Any

from edgewright.serving.scripts.messages import Started

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_STATUSES = {
    "400": "The body does not fit what the script declares.",
    "401": "The key is missing or wrong.",
    "413": "The body is too large.",
    "500": "The script failed; its log has the reason under the request id.",
    "503": "Every worker is busy.",
    "504": "The script did not answer in time.",
}


def openapi(name: str, started: Started) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""
    body = {"application/json": {"schema": input_schema(started), **_example(started)}}
    failed = {"content": {"application/json": {"schema": _ERROR}}}
    responses = {"200": {"description": "The result of the script.", "content": {"application/json": {"schema": started.output}}}}
    responses |= {status: {"description": text, **failed} for status, text in _STATUSES.items()}
    operation = {
        "operationId": "score",
        "summary": "Run the script on one request.",
        "requestBody": {"required": True, "content": body},
        "responses": responses,
        "security": [{"key": []}],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1"},
        "paths": {"/score": {"post": operation}},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def swagger(name: str, started: Started) -> dict[str, Any]:
    """Return the Swagger 2.0 document (https://swagger.io/specification/v2/) with the names that Azure ML's services use."""
    operation = {
        "operationId": "RunMLService",
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "parameters": [
            {"name": "serviceInputPayload", "in": "body", "required": True, "schema": {"$ref": "#/definitions/ServiceInput"}}
        ],
        "responses": {
            "200": {"description": "The result of the script.", "schema": {"$ref": "#/definitions/ServiceOutput"}},
            "default": {"description": "The request failed.", "schema": {"$ref": "#/definitions/ErrorResponse"}},
        },
        "security": [{"Bearer": []}],
    }
    return {
        "swagger": "2.0",
        "info": {"title": name, "version": "1.0", "description": f"Scoring service {name}."},
        "schemes": ["http", "https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}},
        "paths": {"/score": {"post": operation}},
        "definitions": {
            "ServiceInput": input_schema(started) | _example(started),
            "ServiceOutput": started.output or {"type": "object"},
            "ErrorResponse": _ERROR,
        },
    }


def input_schema(started: Started) -> dict[str, Any]:
    """Return the schema of the body: an object with the declared parameters, or anything."""
    if started.body is not None:
        return started.body
    if not started.inputs:
        return {}
    required = [name for name in started.inputs if name not in started.optional]
    return {"type": "object", "properties": started.inputs, "required": required, "additionalProperties": False}


def _example(started: Started) -> dict[str, Any]:
    return {} if started.sample is None else {"example": started.sample}
