"""The OpenAPI 3.1 document, generated from the endpoint table and the message types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cloud.auth import Access
from cloud.http.endpoint import Endpoint
from edgewright import __version__
from edgewright.contracts import wire

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_REFUSAL = {
    "description": "what must hold, what was found, what to do",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
}
_SECURITY: dict[Access, list[dict[str, list[str]]]] = {
    Access.ANYONE: [{}],
    Access.DEVICE: [{"device": []}],
    Access.OPERATOR: [{"operator": []}, {"operatorBasic": []}],
    Access.DEVICE_OR_OPERATOR: [{"device": []}, {"operator": []}, {"operatorBasic": []}],
}
_SCHEMES = {
    "operator": {"type": "http", "scheme": "bearer", "description": "the operator token"},
    "operatorBasic": {"type": "http", "scheme": "basic", "description": "user operator, password the operator token"},
    "device": {"type": "mutualTLS", "description": "a certificate issued at enrolment"},
}


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of `endpoints`."""
    table = tuple(endpoints)
    types = list({each for row in table for each in (row.request_type, row.response_type) if each not in (None, bytes)})
    schemas, components = wire.json_schema(*types)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgewright cloud", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": {**components, "Refusal": _ERROR}, "securitySchemes": _SCHEMES},
    }


def _operation(endpoint: Endpoint, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}{re.sub('[^a-z0-9]+', '_', endpoint.path.lower()).rstrip('_')}",
        "summary": endpoint.summary,
        "tags": [endpoint.path.split("/")[1] or "console"],
        "security": _SECURITY[endpoint.access],
        "responses": {str(endpoint.status): _response(endpoint, schema_of), "default": _REFUSAL},
    }
    parameters = [_parameter(name, "path", "") for name in re.findall(r"{(\w+)(?::\w+)?}", endpoint.path)]
    parameters += [_parameter(name, "query", description) for name, description in endpoint.query.items()]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request_type is not None:
        operation["requestBody"] = {
            "required": endpoint.request_type is not bytes,
            "content": _content(endpoint.request_type, schema_of),
        }
    return operation


def _response(endpoint: Endpoint, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.response_type is not None:
        response["content"] = _content(endpoint.response_type, schema_of)
    return response


def _content(body_type: Any, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if body_type is bytes:
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": schema_of[body_type]}}


def _parameter(name: str, location: str, description: str) -> dict[str, Any]:
    parameter = {"name": name, "in": location, "required": location == "path", "schema": {"type": "string"}}
    return {**parameter, "description": description} if description else parameter
