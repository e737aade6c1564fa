"""Map between errors and HTTP responses, for the cloud, the SDK, the agent and the scoring server.

A server answers an error with `{"error": "<one line>"}` and the status of its class. A client raises the class of the status,
with the same line. An error that needs another status has the attribute `http_status`.

    400 BadInputError    403 DeniedError      404 NotFoundError       409 ConflictError
    500 any other        503 UnreachableError 507 StorageFullError
"""

from __future__ import annotations

import json

from edgewright.errors import (
    BadInputError,
    ConflictError,
    DeniedError,
    EdgewrightError,
    NotFoundError,
    OperationError,
    StorageFullError,
    UnreachableError,
)

_STATUSES: dict[type[EdgewrightError], int] = {
    DeniedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    StorageFullError: 507,
    UnreachableError: 503,
    BadInputError: 400,
}
"""The first class that fits an error decides, so the base class comes last."""
_CLASSES: dict[int, type[EdgewrightError]] = {401: DeniedError} | {status: kind for kind, status in _STATUSES.items()}
_TRY_AGAIN = frozenset({408, 425, 429})
"""Request Timeout, Too Early and Too Many Requests (RFC 9110, 8470, 6585): the request was right."""

_LONGEST_LINE = 1000


def status_of(error: EdgewrightError) -> int:
    """Return the HTTP status of an error."""
    own: int | None = getattr(error, "http_status", None)
    if own is not None:
        return own
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)


def body_of(error: EdgewrightError) -> dict[str, str]:
    """Return the JSON object that an HTTP answer carries for an error."""
    return {"error": " ".join(str(error).split())}


def error_of(status: int, body: bytes, url: str) -> EdgewrightError:
    """Return the error of an HTTP answer, with the server's line, or with `url` and the status where the body has none."""
    line = _line_in(body) or f"{url} must succeed, but the response is {status}"
    if status in _CLASSES:
        return _CLASSES[status](line)
    return BadInputError(line) if 400 <= status < 500 and status not in _TRY_AGAIN else OperationError(line)


def _line_in(body: bytes) -> str:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    text = document.get("error") if isinstance(document, dict) else None
    return " ".join(text.split())[:_LONGEST_LINE] if isinstance(text, str) else ""
