"""From the bytes of a connection to requests: httptools' parser, and what it leaves to its user.

The parser is strict: it refuses a request with both `Content-Length` and `Transfer-Encoding`, with two lengths, or with folded
headers (RFC 9112, sections 5.2 and 6.3). It limits no size, so this module does.

An offer to change the protocol (`Upgrade: h2c`, which Java's HttpClient sends by default) is ignored, as RFC 9110, section 7.8,
allows; the parser would drop the body of such a request.
"""

from __future__ import annotations

from collections.abc import Callable

import httptools

from edgewright.serving.http import connection_limits
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.exchange import Exchange, check_framing
from edgewright.serving.http.messages import HttpError, error_response

_USUAL = (
    b"Host",
    b"User-Agent",
    b"Content-Type",
    b"Content-Length",
    b"Authorization",
    b"Accept",
    b"Accept-Encoding",
    b"Connection",
)
_NAMES = {spelling: name.decode().lower() for name in _USUAL for spelling in (name, name.lower())}
"""Names that nearly every request has; to decode one takes five times as long as to find it."""
_AROUND_HEADER = len(b": \r\n")


class RequestParser:
    """The requests of one connection; the methods `on_...` are called by httptools."""

    def __init__(self, app: HttpApp, begin: Callable[[Exchange], None]) -> None:
        """Prepare to parse; `begin` takes each request whose headers are complete and were admitted or refused."""
        self.receiving: Exchange | None = None
        """The request whose body arrives."""
        self.is_in_headers = False
        self.has_ended = False
        """True after the last request of the connection, or after bytes that are no request."""
        self._app = app
        self._begin = begin
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[str, str] = {}
        self._progressed = False
        """True if the present bytes completed headers or a piece of a body."""
        self._chunk_bytes = 0
        self._unparsed_bytes = 0
        """Bytes that completed nothing, which the parser holds in memory without reporting them."""
        self._most_header_bytes = 0
        """Upper bound of the size of the present headers."""
        self._ignored_bytes = 0
        self._offer: Exchange | None = None
        """The request that offers another protocol."""

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the connection.

        Raises:
            HttpError: they are no request, or too many; nothing further can be parsed.
        """
        self._progressed = False
        self._chunk_bytes = len(data)
        if self.is_in_headers:
            self._most_header_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError as error:
            self.has_ended = True
            raise (error.__context__ or error) from None  # of a method of this class
        except httptools.HttpParserError as error:
            if not self.has_ended:  # otherwise bytes follow the last request, and are ignored
                self.has_ended = True
                raise HttpError(400, connection_limits.NOT_HTTP) from error
        self._unparsed_bytes = 0 if self._progressed else self._unparsed_bytes + len(data)
        if self._unparsed_bytes > connection_limits.MAX_HEADER_BYTES:
            self.has_ended = True
            raise _headers_too_large()

    def on_message_begin(self) -> None:
        """Start to collect a request."""
        self._target = b""
        self._headers = {}
        self.is_in_headers = True
        self._most_header_bytes = self._chunk_bytes

    def on_url(self, target: bytes) -> None:
        """Collect a fragment of the target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; a trailer counts, and is ignored."""
        if self.receiving is not None:
            size = len(name) + len(value) + _AROUND_HEADER
            self._ignore(size, connection_limits.MAX_HEADER_BYTES, _headers_too_large)
            return
        key = _NAMES.get(name) or name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers = self._headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        """Admit the request."""
        self._progressed, self.is_in_headers = True, False
        parser, headers = self._parser, self._headers
        exchange = Exchange(parser.get_method().decode("ascii"), self._target, headers, keeps_alive=parser.should_keep_alive())
        if parser.should_upgrade():
            self._offer = exchange
            return
        self.receiving = exchange
        self._ignored_bytes = 0
        is_usual = "," not in headers.get("host", ",") and "connection" not in headers and "transfer-encoding" not in headers
        if not is_usual or self._most_header_bytes > connection_limits.MAX_HEADER_BYTES:
            self._check_headers(exchange)
        if exchange.response is None:
            self._app.admit(exchange)
        self._begin(exchange)

    def on_body(self, piece: bytes) -> None:
        """Pass a piece of the body to the application; the body of a refused request is ignored, up to the limit of a body."""
        self._progressed = True
        exchange = self.receiving
        if exchange is None:
            return
        if exchange.response is None:
            self._app.receive(exchange, piece)
        else:
            self._ignore(len(piece), self._app.limits.max_body_bytes, self._body_too_large)

    def on_message_complete(self) -> None:
        """End the request."""
        self._progressed = True
        exchange, self.receiving = self.receiving, None
        if exchange is not None:
            exchange.is_complete = True
            self.has_ended = self.has_ended or not exchange.keeps_alive

    def _parse(self, data: bytes) -> None:
        """Feed the parser; after an offer of another protocol, a new one gets the same headers without the offer."""
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as pause:
                rest = memoryview(rest)[pause.args[0] :]
            exchange, self._offer = self._offer, None
            if exchange is None or exchange.method == "CONNECT":
                raise httptools.HttpParserError("this server is no proxy")
            head = _head_without_offer(exchange, self._target, self._parser.get_http_version())
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(head)

    def _check_headers(self, exchange: Exchange) -> None:
        """Refuse headers that the parser accepts and HTTP or this server does not; such a request ends the connection."""
        version = self._parser.get_http_version()
        size = sum(len(name) + len(value) + _AROUND_HEADER for name, value in exchange.headers.items())
        try:
            if len(self._target) + size > connection_limits.MAX_HEADER_BYTES:
                raise _headers_too_large()
            check_framing(exchange.headers, version)
        except HttpError as error:
            exchange.response = error_response(error)
        if version == "1.0" or exchange.response is not None:
            exchange.keeps_alive = False

    def _ignore(self, size_bytes: int, limit_bytes: int, error: Callable[[], HttpError]) -> None:
        """Count bytes that are read for nothing; raise the error, which ends the parser, if there are too many."""
        self._ignored_bytes += size_bytes
        if self._ignored_bytes > limit_bytes:
            raise error()

    def _body_too_large(self) -> HttpError:
        return HttpError(413, f"a body must have at most {self._app.limits.max_body_bytes} bytes, but this one has more")


def _head_without_offer(exchange: Exchange, target: bytes, version: str) -> bytes:
    """Return the head of a request without the header `Upgrade`."""
    lines = [f"{name}: {value}" for name, value in exchange.headers.items() if name != "upgrade"]
    return b"%b %b " % (exchange.method.encode(), target) + "\r\n".join([f"HTTP/{version}", *lines, "", ""]).encode("latin-1")


def _headers_too_large() -> HttpError:
    return HttpError(431, connection_limits.HEADERS_TOO_LARGE)
