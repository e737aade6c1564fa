"""One request of a connection on its way to its response: what has arrived, and what the server holds for it."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

import httptools

from edgewright.serving.http.messages import HttpError, Request, Response
from edgewright.serving.http.routes import Route

_NOT_PLAIN = re.compile(rb"^[^/]|[%#]")
"""A target that is more than a path and a query without escapes."""


class Exchange:
    """A request whose headers have arrived; its body follows."""

    __slots__ = (
        "body",
        "headers",
        "held_bytes",
        "is_complete",
        "is_started",
        "keeps_alive",
        "method",
        "must_continue",
        "path",
        "query",
        "response",
        "route",
    )

    def __init__(self, method: str, target: bytes, headers: dict[str, str], *, keeps_alive: bool = True) -> None:
        self.method = method
        self.headers = headers
        """By lower-case name; the values of a repeated header are joined with commas (RFC 9110, section 5.3)."""
        self.path, self.query = split_target(target)
        self.keeps_alive = keeps_alive
        """False if the connection ends after the response."""
        self.must_continue = "expect" in headers and headers["expect"].lower() == "100-continue"
        """True if the client waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1)."""
        self.route: Route | None = None
        self.body: list[bytes] = []
        """Pieces of the body, as they arrived."""
        self.held_bytes = 0
        """Bytes that count as held in memory until the response is sent."""
        self.is_complete = False
        """True once the whole request has arrived."""
        self.is_started = False
        """True once the handler of the route was called."""
        self.response: Response | None = None
        """The response, once it is known; a refused request has one before its body has arrived."""

    def request(self) -> Request:
        """Return the complete request for a handler."""
        body = self.body
        content = body[0] if len(body) == 1 else b"".join(body)
        return Request(self.headers, content, self.method, self.query)


@lru_cache(maxsize=256)
def split_target(target: bytes) -> tuple[str, bytes]:
    """Return the path, without its escapes, and the query of a request target (RFC 9112, section 3.2).

    A target may also be a whole URL, which clients of a proxy send, or `*`.
    """
    if _NOT_PLAIN.search(target) is None:
        path, _, query = target.partition(b"?")
        return path.decode("latin-1"), query
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:  # "*", or "host:port" of CONNECT: a path without a route
        return target.decode("latin-1"), b""
    return unquote((url.path or b"/").decode("latin-1")), url.query or b""


def check_framing(headers: dict[str, str], version: str) -> None:
    """Check what the parser leaves to its user.

    Raises:
        HttpError: the request has no `Host`, or several (400; RFC 9112, section 3.2), or a transfer coding other than chunked
            (501; section 6.1).
    """
    host = headers.get("host")
    if host is None and version != "1.0":
        raise HttpError(400, "a request of HTTP/1.1 must have the header Host, but this one has none")
    if host is not None and "," in host:
        raise HttpError(400, "a request must have one header Host, but this one has several")
    coding = headers.get("transfer-encoding")
    if coding is not None and coding.lower() != "chunked":
        raise HttpError(501, f"Transfer-Encoding must be chunked, not {coding[:40]!r}: send the body without it")
