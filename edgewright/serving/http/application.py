"""The part of a scoring application that does not depend on the model: a bare ASGI application with limits and keys.

    find the route     404 or 405 without one
    check the key      401 without a valid one, where keys are required (keys.py)
    read the body      up to the limits of bytes, and unpack it (compression.py)
    call the handler   an `EdgewrightError` becomes a response by its status; any other exception is a defect: 500
    send               and close the connection when the process is about to end

There is no web framework, because it would cost more than a small model (benchmarks/serving.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgewright.errors import BadInputError, EdgewrightError, NotFoundError
from edgewright.serving.http import compression
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.http.messages import HttpError, Request, Response, error_response
from edgewright.serving.statistics import Statistics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Response]]

_MIB = 1 << 20
_BRIEF_UNPACKED_BYTES = 64 << 10
"""Bodies of up to this size are unpacked in the event loop, in a fifth of a millisecond; longer ones in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """Bytes of request bodies that the server holds in memory: per request, and of all requests together."""

    max_body_bytes: int = 16 * _MIB
    max_held_bytes: int = 128 * _MIB


class Route(NamedTuple):
    """Methods that a path accepts, and the handler of its requests."""

    methods: tuple[str, ...]
    handler: Handler
    is_scoring: bool = False
    """True if a failure counts in the statistics."""
    is_public: bool = False
    """True if no key is needed, as for the probes of an orchestrator."""


def get(handler: Handler, *, public: bool = False) -> Route:
    """Return the route of a path that is read."""
    return Route(("GET", "HEAD"), handler, is_public=public)


def post(handler: Handler) -> Route:
    """Return the route of a path that scores."""
    return Route(("POST",), handler, is_scoring=True)


class HttpApp:
    """A scoring application; a subclass adds the routes."""

    def __init__(self, statistics: Statistics, *, limits: ServingLimits | None = None, keys: KeyFile | None = None) -> None:
        self.statistics = statistics
        self.draining = False
        """True once the process is about to end: every response then closes its connection."""
        self.limits = limits or ServingLimits()
        self._keys = keys
        self._held_bytes = 0
        self._routes: Mapping[str, Route] = {}

    def watch(self, connections: Set[Any]) -> None:
        """Start a watchdog of the model, if it needs one; `connections` are those of the server."""

    async def start(self) -> None:
        """Start what the application needs before it accepts requests."""

    async def stop(self) -> None:
        """End what `start` started, after the last response."""

    def close(self) -> None:
        """Release resources; called when no request is open."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        body: list[bytes] = []
        try:
            response = await self._respond(scope, receive, body)
            await _send(response, send, last=self.draining, with_body=scope["method"] != "HEAD")
        finally:
            self._held_bytes -= sum(map(len, body))

    def unknown_path(self, path: str) -> str:
        """Return the message for a path without a route."""
        return f"{path} is not served here; there are {', '.join(self._routes)}"

    async def _respond(self, scope: Scope, receive: Receive, body: list[bytes]) -> Response:
        route = self._routes.get(scope["path"])
        try:
            route = self._checked(route, scope["method"], scope["path"])
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if self._keys is not None and not route.is_public:
                self.authorize(headers.get("authorization", ""))
            content = await self._content(headers, receive, body)
            response = await route.handler(Request(headers, content, scope["method"], scope.get("query_string", b"")))
            return compression.compressed(response, headers["accept-encoding"]) if "accept-encoding" in headers else response
        except EdgewrightError as error:
            if route is not None and route.is_scoring:
                self.count_failure(error)
            return error_response(error)
        except Exception:  # a defect: counted here; uvicorn answers 500 and logs the traceback
            if route is not None and route.is_scoring:
                self.statistics.failed()
            raise

    def _checked(self, route: Route | None, method: str, path: str) -> Route:
        if route is None:
            raise NotFoundError(self.unknown_path(path))
        if method not in route.methods:
            listed = ", ".join(route.methods)
            raise HttpError(405, f"{path} accepts {listed}, not {method}", (("allow", listed),))
        return route

    def authorize(self, authorization: str) -> None:
        """Accept the header `Authorization`, if this server requires keys.

        Raises:
            HttpError: the header is missing or has another key (401).
        """
        if self._keys is not None:
            self._keys.check(authorization)

    @contextlib.contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Count a message of another transport as held in memory until the block ends.

        Raises:
            HttpError: the message is too large (413), or one too many (503).
        """
        self._check_size(size_bytes)
        self._hold(size_bytes)
        try:
            yield
        finally:
            self._held_bytes -= size_bytes

    def count_failure(self, error: EdgewrightError) -> None:
        """Count a scoring request that ended with an error."""
        if isinstance(error, BadInputError):
            self.statistics.rejected()
        else:
            self.statistics.failed()

    async def _content(self, headers: dict[str, str], receive: Receive, body: list[bytes]) -> bytes:
        """Return the unpacked body; `body` collects what is held in memory until the response was sent."""
        coding = compression.coding_of(headers.pop("content-encoding", ""))
        await self._read_body(headers, receive, body)
        received = b"".join(body)
        if coding is None or not received:
            return received
        reserved = min(self.limits.max_body_bytes, len(received) * compression.MAX_RATIO)
        self._hold(reserved)
        try:
            limit_bytes = self.limits.max_body_bytes
            if reserved <= _BRIEF_UNPACKED_BYTES:
                content = compression.unpacked(received, coding, limit_bytes=limit_bytes)
            else:
                content = await asyncio.to_thread(compression.unpacked, received, coding, limit_bytes=limit_bytes)
        finally:
            self._held_bytes -= reserved
        body.append(content)
        self._held_bytes += len(content)
        headers["content-length"] = str(len(content))
        return content

    async def _read_body(self, headers: dict[str, str], receive: Receive, body: list[bytes]) -> None:
        """Collect the body into `body`.

        Raises:
            HttpError: the body is too large (413), cut off (400), or one too many (503).
        """
        content_length = headers.get("content-length", "0")
        received = 0
        self._check_size(int(content_length) if content_length.isdecimal() else 0)  # the parser limits it to 64 bits
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "the connection ended before the whole body had arrived")
            chunk = message.get("body", b"")
            received += len(chunk)
            self._check_size(received)
            self._hold(len(chunk))
            body.append(chunk)
            if not message.get("more_body"):
                return

    def _hold(self, size_bytes: int) -> None:
        if self._held_bytes + size_bytes > self.limits.max_held_bytes:
            raise HttpError(503, "the memory for waiting requests is full: try again in a second", (("retry-after", "1"),))
        self._held_bytes += size_bytes

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.limits.max_body_bytes:
            raise HttpError(413, f"a body must have at most {self.limits.max_body_bytes} bytes, not {size_bytes}")


async def _send(response: Response, send: Send, *, last: bool, with_body: bool) -> None:
    headers = [
        *([(b"connection", b"close")] if last else []),
        (b"content-type", response.media_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *((name.encode(), value.encode()) for name, value in response.headers),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})
