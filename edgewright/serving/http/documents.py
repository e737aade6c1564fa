"""Parts of the documents that describe a scoring service: OpenAPI 3.1, and Swagger 2.0 for clients of Azure ML's services.

https://spec.openapis.org/oas/v3.1.0 and https://swagger.io/specification/v2/
"""

from __future__ import annotations

from typing import Any

from edgewright.serving.http.messages import JSON

ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_NO_KEY: list[Any] = []
_ERRORS = {
    "400": "The request does not fit; the text states the field, the expected and the received.",
    "401": "The key or token is missing, wrong or expired.",
    "404": "A requested output does not exist.",
    "406": "The result does not fit the accepted media type.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large.",
    "415": "An unsupported Content-Type or Content-Encoding.",
    "431": "The headers are too large.",
    "500": "The model or script failed; the log has the reason under the request id.",
    "503": "Too many requests are waiting; Retry-After says when to try again.",
    "504": "No answer within the time limit.",
}


def operation(summary: str, body: dict[str, Any], response: dict[str, Any], *, name: str = "") -> dict[str, Any]:
    """Return an operation that scores; `body` and `response` are schemas by media type."""
    return {
        **({"operationId": name} if name else {}),
        "summary": summary,
        "requestBody": {"required": True, "content": body},
        "responses": {"200": {"description": "The outputs.", "content": response}, **_errors(*_ERRORS)},
    }


def reading(summary: str, media_type: str = JSON, *, public: bool = False, name: str = "") -> dict[str, Any]:
    """Return an operation that reads a document or a state; `public` ones need no key."""
    schema = {"type": "object" if media_type == JSON else "string"}
    responses = {"200": {"description": "The document.", "content": {media_type: {"schema": schema}}}}
    described = {**({"operationId": name} if name else {}), "summary": summary}
    if public:
        return {**described, "responses": responses | _errors("503"), "security": _NO_KEY}
    return {**described, "responses": responses | _errors("400", "401", "503")}


def document(title: str, *, version: str, description: str, paths: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document of a service with `paths` and the routes that every service has."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "security": [{"key": []}],
        "paths": {path: {method: described} for path, (method, described) in (paths | _SHARED).items()},
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A key or a token of the service."}},
        },
    }


def swagger(title: str, *, version: str, body: dict[str, Any], answer: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """Return the Swagger 2.0 document of `/score`, with the names that Azure ML's services use."""
    payload = {"name": "serviceInputPayload", "in": "body", "required": True, "schema": {"$ref": "#/definitions/ServiceInput"}}
    scoring = {
        "operationId": "RunMLService",
        "consumes": [JSON],
        "produces": [JSON],
        "parameters": [payload],
        "responses": {
            "200": {"description": "The result.", "schema": {"$ref": "#/definitions/ServiceOutput"}},
            "default": {"description": "The request failed.", "schema": {"$ref": "#/definitions/ErrorResponse"}},
        },
        "security": [{"Bearer": []}],
    }
    return {
        "swagger": "2.0",
        "info": {"title": title, "version": version, "description": f"Scoring service {title}."},
        "schemes": ["http", "https"],
        "consumes": [JSON],
        "produces": [JSON],
        "securityDefinitions": {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}},
        "paths": {"/score": {"post": scoring}},
        "definitions": {
            "ServiceInput": _in_draft_4(body) | ({} if example is None else {"example": example}),
            "ServiceOutput": _in_draft_4(answer) or {"type": "object"},
            "ErrorResponse": ERROR,
        },
    }


def _errors(*statuses: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def _in_draft_4(schema: Any) -> Any:
    """Return the nearest schema of Swagger 2.0, which has no alternatives: the first one, and no encodings."""
    if isinstance(schema, list):
        return [_in_draft_4(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema:
        schema = {name: value for name, value in schema.items() if name != "anyOf"} | schema["anyOf"][0]
    kept = {name: value for name, value in schema.items() if name != "contentEncoding"}
    if isinstance(kept.get("type"), list):
        kept["type"] = kept["type"][0]
    return {name: value if name in ("example", "default", "enum") else _in_draft_4(value) for name, value in kept.items()}


_SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "/": ("get", reading("Return 200 while the server answers.", "text/plain", public=True, name="getHealth")),
    "/health/live": ("get", reading("Return 200 while the server answers.", public=True, name="getLive")),
    "/health/ready": ("get", reading("Return 200 while requests can be scored.", public=True, name="getReady")),
    "/v2": ("get", reading("Describe the server.", name="getServer")),
    "/v2/health/live": ("get", reading("Return 200 if the server is alive.", public=True, name="getServerLive")),
    "/v2/health/ready": ("get", reading("Return 200 if the server is ready.", public=True, name="getServerReady")),
    "/stats": ("get", reading("Return counts, latency over the last requests and predictions by class.", name="getStatistics")),
    "/metrics": ("get", reading("Return the same for Prometheus.", "text/plain", name="getMetrics")),
    "/openapi.json": ("get", reading("Return this document.", name="getOpenapi")),
    "/swagger.json": ("get", reading("Return the Swagger 2.0 document of /score.", name="getSwagger")),
    "/docs": ("get", reading("Return a page to try requests on.", "text/html", public=True, name="getDocs")),
}
