"""HTTP as the scoring server uses it: a request, a response, and an error with its own status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from edgewright.contracts.connection.http_errors import body_of, status_of
from edgewright.errors import BadInputError, EdgewrightError

JSON = "application/json"
NPY = "application/x-npy"
BINARY = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class HttpError(BadInputError):
    """A request that gets a status, and perhaps headers, of its own."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.http_status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its whole body."""

    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    method: str = "POST"
    query_string: bytes = b""
    """The part of the target after `?`, percent-encoded."""

    @property
    def media_type(self) -> str:
        """The `Content-Type` without parameters, in lower case; empty without one."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Response:
    """A response with its whole body."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


def json_response(value: Any, status: int = 200) -> Response:
    """Return a JSON response; NumPy arrays are encoded without conversion to lists."""
    return Response(status, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def error_response(error: EdgewrightError) -> Response:
    """Return the response to a request that ended with `error`."""
    headers = error.headers if isinstance(error, HttpError) else ()
    return Response(status_of(error), orjson.dumps(body_of(error)), headers=headers)


def parse_json(raw: bytes, subject: str) -> Any:
    """Parse JSON.

    Raises:
        HttpError: it is not JSON (400); the text names `subject` and the position.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, f"{subject} must be JSON: {error}") from error
