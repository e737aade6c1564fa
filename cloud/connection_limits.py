"""Limits of the cloud's connections, which the scoring server's have as well (edgewright/serving/http/connection_limits.py).

Neither uvicorn nor httptools limits the headers of a request, and uvicorn waits without limit for the rest of a request. A
client without any credential could therefore fill the memory or the connections of a server. `LimitedHttpProtocol` refuses

    headers over 64 KiB, trailers included              431, and the connection is closed
    headers that take more than 20 s                    408, and the connection is closed
    a body of which nothing arrives for 60 s            408, and the connection is closed
    a connection on which nothing arrives for 20 s      closed

Between two requests of one connection, uvicorn's `timeout_keep_alive` applies. The limit of a body belongs to the application.

An offer to change the protocol (`Upgrade: h2c`, which Java's HttpClient sends by default) is ignored, as RFC 9110, section 7.8,
allows: the parser would drop the body of such a request.
"""

from __future__ import annotations

import asyncio
import http
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgewright.contracts import wire
from edgewright.serving.http import connection_limits
from edgewright.serving.http.connection_limits import HEADERS_TOO_LARGE, NOT_HTTP, too_slow

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_CLOSE_S = 2.0  # time in which a client can read a refusal; then the connection is aborted


class LimitedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol with limits on what a client may send before the application is called."""

    _header_bytes = 0
    _unparsed_bytes = 0
    _progressed = False
    _in_headers = False
    _in_body = False
    _refusal: tuple[int, str] | None = None
    _deadline: float | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._expect_by(connection_limits.HEADER_TIME_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes and apply the limits.

        The parser keeps an incomplete header in memory without reporting it, so bytes that complete nothing are counted here.
        """
        if self.transport.is_closing():
            return
        self._progressed = False
        if b"pgrade:" in data and not self._in_body:
            data = _without_upgrade(data)
        super().data_received(data)
        self._unparsed_bytes = 0 if self._progressed else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > connection_limits.MAX_HEADER_BYTES:
            self._refuse(*_headers_too_large())
        elif self._in_body:
            self._expect_by(connection_limits.BODY_IDLE_S)
        elif self._progressed and not self._in_headers:
            self._deadline = None
        elif self._deadline is None:
            self._expect_by(connection_limits.HEADER_TIME_S)

    def on_message_begin(self) -> None:
        """Start to count the headers of a request."""
        super().on_message_begin()
        self._header_bytes = 0
        self._in_headers = True

    def on_url(self, url: bytes) -> None:
        """Count the bytes of a fragment of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header or trailer."""
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Call the application."""
        self._progressed, self._in_headers, self._in_body = True, False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a chunk of the body to the application."""
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._progressed, self._in_body = True, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not accept, or what a limit refused while the parser ran."""
        self._refuse(*(self._refusal or (400, NOT_HTTP)))

    def _count(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > connection_limits.MAX_HEADER_BYTES:
            self._refusal = _headers_too_large()
            raise ValueError("headers too large")  # ends the parser, which then calls send_400_response

    def _expect_by(self, limit_s: float) -> None:
        """Set the deadline; a timer that fires earlier is kept, because it reads the deadline when it fires."""
        self._deadline = self.loop.time() + limit_s
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_later(limit_s, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        if self._in_body and self.flow.read_paused:  # the application delays the body, not the client
            self._deadline = self.loop.time() + connection_limits.BODY_IDLE_S
        remaining_s = self._deadline - self.loop.time()
        if remaining_s > 0:
            self._timer = self.loop.call_later(remaining_s, self._check_deadline)
        elif self._in_headers or self._in_body:
            in_headers = ("headers", connection_limits.HEADER_TIME_S)
            part, limit_s = in_headers if self._in_headers else ("next chunk of the body", connection_limits.BODY_IDLE_S)
            self._refuse(408, too_slow(part, limit_s))
        else:
            self.transport.abort()

    def _refuse(self, status: int, error: str) -> None:
        """Close the connection; send a refusal first, unless a response to an earlier or to this request was started."""
        if self.transport.is_closing():
            return
        is_answered = (
            self.cycle is not None and self.cycle.response_started and (self._in_body or not self.cycle.response_complete)
        )
        if not is_answered:
            self.transport.write(_response(status, error))
        self.logger.info("refused request status=%d error=%s", status, error)
        self.transport.close()
        self.loop.call_later(_CLOSE_S, self.transport.abort)


def _without_upgrade(data: bytes) -> bytes:
    """Rename the header Upgrade in the headers at the start of `data`; the length stays the same."""
    headers, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nX-Offer:", headers) + end + rest


def _headers_too_large() -> tuple[int, str]:
    return 431, HEADERS_TOO_LARGE


def _response(status: int, error: str) -> bytes:
    body = wire.encode({"error": error})
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
