"""One request and one answer, and how an error becomes a status: the small part of HTTP that the server needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from edgewright.contracts.http_errors import body_of, status_of
from edgewright.errors import BadInputError, EdgewrightError

JSON = "application/json"
NPY = "application/x-npy"
BINARY = "application/octet-stream"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class RefusedError(BadInputError):
    """A request that is refused with a status of its own."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.http_status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body was read."""

    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def media_type(self) -> str:
        """Return what the body says that it is, without parameters; empty when it does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(value: Any, status: int = 200) -> Answer:
    """Answer with JSON; arrays are written without a detour through lists."""
    return Answer(status, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def error_answer(error: EdgewrightError) -> Answer:
    """Answer with the one line that the error is."""
    headers = error.headers if isinstance(error, RefusedError) else ()
    return Answer(status_of(error), orjson.dumps(body_of(error)), headers=headers)


def parse_json(raw: bytes, what: str) -> Any:
    """Read JSON, or refuse the request saying where it is wrong."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as wrong:
        raise RefusedError(400, f"{what} must be JSON: {wrong}") from wrong
