"""HTTP as the scoring server uses it: a request, a response, and an error with its own status.

Requests and responses are tuples, which are made in a quarter of the time of frozen dataclasses: every request needs both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

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


class Request(NamedTuple):
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
        return _media_type(self.headers.get("content-type", ""))


class Response(NamedTuple):
    """A response with its whole body."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Pending:
    """A response that its handler delivers later, in the event loop, without a Task.

    A Task and its wake-ups cost as much processor time as a run of a small model.
    """

    __slots__ = ("_receive", "outcome")

    def __init__(self) -> None:
        self.outcome: Response | Exception | None = None
        """The response or error, if it was delivered before a receiver was known."""
        self._receive: Callable[[Response | Exception], None] | None = None

    def deliver(self, outcome: Response | Exception) -> None:
        """Pass the response, or the error of the request, to the connection; call it once."""
        if self._receive is None:
            self.outcome = outcome
        else:
            self._receive(outcome)

    def pass_to(self, receive: Callable[[Response | Exception], None]) -> None:
        """Call `receive` with the outcome: at once if it was delivered, otherwise when it is."""
        if self.outcome is None:
            self._receive = receive
        else:
            receive(self.outcome)


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


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
