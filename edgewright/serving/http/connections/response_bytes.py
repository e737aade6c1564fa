"""Responses as bytes (RFC 9112, section 4)."""

from __future__ import annotations

import http
import re
import time
from functools import lru_cache
from wsgiref.handlers import format_date_time

from edgewright.serving.http.messages import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_WITHOUT_BODY = frozenset({204, 304})
_OF_THE_CONNECTION = frozenset({"connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"})
"""Headers that the server sets; those of a script would contradict what is sent."""
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
"""Without line ends, which would begin another header (RFC 9110, section 5.5)."""


class Dates:
    """The header `Date`, which is made once per second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """Return the header with its line end."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = f"date: {format_date_time(now)}\r\n".encode()
        return self._line


def encoded(response: Response, date: bytes, *, closes: bool, with_body: bool = True) -> bytes:
    """Return the bytes of a response.

    Args:
        response: as its handler made it.
        date: the header of `Dates`.
        closes: the connection ends after it.
        with_body: False for a response to HEAD, which has the headers only.

    Raises:
        ValueError: the status or a header is one that HTTP cannot hold.
    """
    status, body, media_type, headers = response
    connection = b"connection: close\r\n" if closes else b""
    extra = _lines(headers) if headers else b""
    if status in _WITHOUT_BODY:  # has neither a body nor its length (RFC 9110, section 8.6)
        return b"%b%b%b%b\r\n" % (_start(status, media_type), date, connection, extra)
    content = body if with_body else b""
    return b"%b%b%b%bcontent-length: %d\r\n\r\n%b" % (_start(status, media_type), date, connection, extra, len(body), content)


@lru_cache(maxsize=128)
def _start(status: int, media_type: str) -> bytes:
    """Return the status line and the media type, which only few responses do not share."""
    if not 200 <= status <= 599:
        raise ValueError(f"a response must have a status from 200 to 599, not {status}")
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:  # a status of the script's own
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode() + _lines((("content-type", media_type),))


def _lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"a header must have a name and a value that HTTP can hold, not {name!r}: {value!r}")
    return "".join(f"{name}: {value}\r\n" for name, value in headers if name.lower() not in _OF_THE_CONNECTION).encode()
