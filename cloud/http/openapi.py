"""The OpenAPI 3.1 document, generated from the endpoint table and the message types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cloud.auth import Access
from cloud.http.endpoint import MAX_WAIT_S, Endpoint
from edgewright import __version__
from edgewright.contracts import wire

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_REFUSAL = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
_STATUSES = {
    201: "Created.",
    204: "Nothing to return.",
    206: "A part of the content, as the header Range asks.",
    400: "The request is not valid; the text states the expected and the received.",
    401: "The credential is missing, or is not valid.",
    403: "The credential does not permit this, or was revoked.",
    404: "A named thing does not exist.",
    409: "The state of a named thing does not permit this.",
    413: "The body is too large.",
    416: "The range does not exist, or does not continue the upload.",
    500: "A defect; the log of the cloud has the details.",
    503: "The database, or the container engine that a deployment needs, cannot be reached: try again.",
    507: "The disk of the cloud is full.",
}
_MAY_DENY = (401, 403, 500, 503)
"""Every operation may answer with these: a wrong token is refused even where none is needed."""
_MAY_WRITE = (404, 409, 507)
_DESCRIPTION = (
    "Every refusal is a JSON object with the text `error`. A path that is not described is answered with 404, and another method "
    "of a described path with 405 and the header Allow."
)
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
        "info": {
            "title": "edgewright cloud",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": {**components, "Refusal": _ERROR}, "securitySchemes": _SCHEMES},
    }


def _operation(endpoint: Endpoint, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}{re.sub('[^a-z0-9]+', '_', endpoint.path.lower()).rstrip('_')}",
        "summary": endpoint.summary,
        "tags": [endpoint.path.split("/")[1] or "console"],
        "security": _SECURITY[endpoint.access],
        "responses": _responses(endpoint, schema_of),
    }
    parameters = [_parameter(name, "path", "") for name in re.findall(r"{(\w+)(?::\w+)?}", endpoint.path)]
    for name, description in endpoint.query.items():
        parameters.append(_parameter(name, "query", description, is_number=name in endpoint.numbers))
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request_type is not None:
        operation["requestBody"] = {
            "required": endpoint.request_type is not bytes,
            "content": _content(endpoint.request_type, schema_of),
        }
    return operation


def _responses(endpoint: Endpoint, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    responses = {endpoint.status: _response(endpoint, schema_of)}
    for status in (*_errors(endpoint), *endpoint.other_statuses):
        described: dict[str, Any] = {"description": _STATUSES[status]}
        responses[status] = described | ({"content": _REFUSAL} if status >= 400 else {})
    return {str(status): responses[status] for status in sorted(responses)}


def _errors(endpoint: Endpoint) -> set[int]:
    """Return the statuses of refusals; those of `other_statuses` are not among them."""
    statuses = set(_MAY_DENY)
    if endpoint.method != "GET":
        statuses.update(_MAY_WRITE)
    if "{" in endpoint.path:
        statuses.update((400, 404))
    if endpoint.query:
        statuses.add(400)
    if endpoint.request_type is not None:
        statuses.update((400, 413))
    return statuses


def _response(endpoint: Endpoint, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.response_type is bytes:
        response["content"] = {media_type: {} for media_type in endpoint.media_types}
    elif endpoint.response_type is not None:
        response["content"] = _content(endpoint.response_type, schema_of)
    return response


def _content(body_type: Any, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if body_type is bytes:
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": schema_of[body_type]}}


def _parameter(name: str, location: str, description: str, *, is_number: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number", "minimum": 0} if is_number else {"type": "string"}
    if name == "wait_s":
        schema["maximum"] = MAX_WAIT_S
    parameter = {"name": name, "in": location, "required": location == "path", "schema": schema}
    return {**parameter, "description": description} if description else parameter
