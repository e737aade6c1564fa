"""The part of a scoring application that does not depend on the model: routes with limits and keys.

The connection (connections/connection.py) calls these methods in turn for each request:

    admit      find the route (404 or 405 without one) and check the key, before the body is read: 401 without a valid one,
               where keys are required (keys.py)
    receive    hold a piece of the body, up to the limits of bytes
    handle     unpack the body (compression.py) and call the handler of the route
    finished   make the response: an `EdgewrightError` becomes one by its status; any other exception is a defect: 500
    release    count the memory of the request as free, after the response was sent

There is no web framework, because it would cost more than a small model (benchmarks/serving.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from edgewright.errors import BadInputError, EdgewrightError, NotFoundError
from edgewright.serving.http import compression
from edgewright.serving.http.exchange import Exchange
from edgewright.serving.http.keys import KeyFile
from edgewright.serving.http.messages import HttpError, Pending, Response, error_response, json_response
from edgewright.serving.http.routes import Handler, Route, get, post
from edgewright.serving.statistics import Statistics

__all__ = ["Handler", "HttpApp", "Route", "ServingLimits", "get", "post"]

_log = logging.getLogger(__name__)

_MIB = 1 << 20
_BRIEF_UNPACKED_BYTES = 64 << 10
"""Bodies of up to this size are unpacked in the event loop, in a fifth of a millisecond; longer ones in a thread."""
_DEFECT = "the server failed on this request: its log has the reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """Limits of a server: bytes of request bodies held in memory, per request and of all together, and open connections."""

    max_body_bytes: int = 16 * _MIB
    max_held_bytes: int = 128 * _MIB
    max_connections: int = 4096


class HttpApp:
    """A scoring application; a subclass adds the routes."""

    def __init__(self, statistics: Statistics, *, limits: ServingLimits | None = None, keys: KeyFile | None = None) -> None:
        self.statistics = statistics
        self.draining = False
        """True once the process is about to end: every response then closes its connection."""
        self.limits = limits or ServingLimits()
        self.open_count = 0
        """Requests whose handler was called and that have no response yet."""
        self._keys = keys
        self._held_bytes = 0
        self._routes: Mapping[str, Route] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, connections: Set[Any]) -> None:
        """Start a watchdog of the model, if it needs one; `connections` are those of the server."""

    async def start(self) -> None:
        """Start what the application needs before it accepts requests."""

    async def stop(self) -> None:
        """End what `start` started, after the last response."""

    def close(self) -> None:
        """Release resources; called when no request is open."""

    def unknown_path(self, path: str) -> str:
        """Return the message for a path without a route."""
        return f"{path} is not served here; there are {', '.join(self._routes)}"

    def admit(self, exchange: Exchange) -> None:
        """Give a request its route; or its response, if it is refused before its body is read."""
        route = exchange.route = self._routes.get(exchange.path)
        try:
            if route is None:
                raise NotFoundError(self.unknown_path(exchange.path))
            if exchange.method not in route.methods:
                listed = ", ".join(route.methods)
                raise HttpError(405, f"{exchange.path} accepts {listed}, not {exchange.method}", (("allow", listed),))
            if self._keys is not None and not route.is_public:
                self.authorize(exchange.headers.get("authorization", ""))
            if "content-length" in exchange.headers:
                self._check_size(int(exchange.headers["content-length"]))  # the parser checked that it is a number of 64 bits
        except EdgewrightError as error:
            self._refuse(exchange, error)

    def receive(self, exchange: Exchange, piece: bytes) -> None:
        """Hold a piece of the body of an admitted request; one piece too many gives the request a response."""
        try:
            self._check_size(exchange.held_bytes + len(piece))
            self._hold(exchange, len(piece))
        except HttpError as error:
            self._refuse(exchange, error)
        else:
            exchange.body.append(piece)

    def handle(self, exchange: Exchange) -> Response | Pending:
        """Start to answer a complete request."""
        self.open_count += 1
        exchange.is_started = True
        assert exchange.route is not None, "the request was admitted"
        try:
            if "content-encoding" in exchange.headers:
                return self._as_task(self._unpacked_and_handled(exchange))
            outcome = exchange.route.handler(exchange.request())
            if isinstance(outcome, Response):
                return self.finished(exchange, outcome)
            return outcome if isinstance(outcome, Pending) else self._as_task(outcome)
        except Exception as error:  # noqa: BLE001 - becomes the response
            return self.finished(exchange, error)

    def finished(self, exchange: Exchange, outcome: Response | Exception) -> Response:
        """Return the response to a request whose handler has ended."""
        self.open_count -= 1
        if isinstance(outcome, Response):
            accepted = exchange.headers.get("accept-encoding")
            return outcome if accepted is None else compression.compressed(outcome, accepted)
        is_scoring = exchange.route is not None and exchange.route.is_scoring
        if isinstance(outcome, EdgewrightError):
            if is_scoring:
                self.count_failure(outcome)
            return error_response(outcome)
        if is_scoring:
            self.statistics.failed()
        _log.error("a request failed path=%s", exchange.path, exc_info=outcome)
        return json_response({"error": _DEFECT}, 500)

    async def answer_alone(self, exchange: Exchange) -> Response:
        """Answer a complete request without a connection."""
        outcome = self.handle(exchange)
        if isinstance(outcome, Response):
            return outcome
        try:
            return self.finished(exchange, await _delivery(outcome))
        except Exception as error:  # noqa: BLE001 - becomes the response
            return self.finished(exchange, error)

    def release(self, exchange: Exchange) -> None:
        """Count the memory of a request as free; calling it again does nothing."""
        self._held_bytes -= exchange.held_bytes
        exchange.held_bytes = 0
        exchange.body = []

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
        self._reserve(size_bytes)
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

    async def _unpacked_and_handled(self, exchange: Exchange) -> Response:
        assert exchange.route is not None, "the request was admitted"
        await self._unpack(exchange)
        outcome = exchange.route.handler(exchange.request())
        if isinstance(outcome, Response):
            return outcome
        return await (_delivery(outcome) if isinstance(outcome, Pending) else outcome)

    async def _unpack(self, exchange: Exchange) -> None:
        """Replace a compressed body by its content, which counts as held as well."""
        coding = compression.coding_of(exchange.headers.pop("content-encoding"))
        received = b"".join(exchange.body)
        if coding is None or not received:
            return
        limit_bytes = self.limits.max_body_bytes
        reserved = min(limit_bytes, len(received) * compression.MAX_RATIO)
        with self.holding(reserved):
            if reserved <= _BRIEF_UNPACKED_BYTES:
                content = compression.unpacked(received, coding, limit_bytes=limit_bytes)
            else:
                content = await asyncio.to_thread(compression.unpacked, received, coding, limit_bytes=limit_bytes)
        exchange.body = [content]
        exchange.held_bytes += len(content)
        self._held_bytes += len(content)
        exchange.headers["content-length"] = str(len(content))

    def _as_task(self, handling: Awaitable[Response]) -> Pending:
        pending = Pending()
        task = asyncio.get_running_loop().create_task(_deliver_result(handling, pending))
        self._tasks.add(task)  # the loop itself keeps no strong reference
        task.add_done_callback(self._tasks.discard)
        return pending

    def _refuse(self, exchange: Exchange, error: EdgewrightError) -> None:
        if exchange.route is not None and exchange.route.is_scoring:
            self.count_failure(error)
        exchange.response = error_response(error)
        if exchange.response.status == 413:
            exchange.keeps_alive = False  # to skip the body would take longer than a new connection

    def _hold(self, exchange: Exchange, size_bytes: int) -> None:
        self._reserve(size_bytes)
        exchange.held_bytes += size_bytes

    def _reserve(self, size_bytes: int) -> None:
        if self._held_bytes + size_bytes > self.limits.max_held_bytes:
            raise HttpError(503, "the memory for waiting requests is full: try again in a second", (("retry-after", "1"),))
        self._held_bytes += size_bytes

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.limits.max_body_bytes:
            raise HttpError(413, f"a body must have at most {self.limits.max_body_bytes} bytes, not {size_bytes}")


async def _deliver_result(handling: Awaitable[Response], pending: Pending) -> None:
    try:
        outcome: Response | Exception = await handling
    except Exception as error:  # noqa: BLE001 - becomes the response
        outcome = error
    pending.deliver(outcome)


async def _delivery(pending: Pending) -> Response:
    """Wait for a response in a Task."""
    delivered: asyncio.Future[Response | Exception] = asyncio.get_running_loop().create_future()
    pending.pass_to(delivered.set_result)
    outcome = await delivered
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
