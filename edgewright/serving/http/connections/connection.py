"""One HTTP/1.1 connection of the scoring server: an asyncio protocol that calls the application directly (docs/adr/0017).

    bytes arrive    the parser admits requests and collects their bodies (request_parser.py); nothing is answered meanwhile
    serve           complete requests are handled one after the other; responses leave in the order of the requests
    pace            a limit for the time that the next event may take (deadlines.py)

A handler that returns its response, or delivers it later, costs no Task.

A client without any credential must not fill the memory or the connections of a server. It gets

    headers over 64 KiB, trailers included              431, and the connection is closed
    headers that take more than 20 s                    408, and the connection is closed
    a body of which nothing arrives for 60 s            408, and the connection is closed
    no request for 20 s, or none after the last for 5 s the connection is closed
    a response of which it reads nothing for 60 s       the connection is closed
    more connections than the limit                     503, and the connection is closed
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import cast

from edgewright.errors import OperationError
from edgewright.serving.http import connection_limits
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.connections.deadlines import Deadline, Waiting
from edgewright.serving.http.connections.request_parser import RequestParser
from edgewright.serving.http.connections.response_bytes import CONTINUE, Dates, encoded
from edgewright.serving.http.exchange import Exchange
from edgewright.serving.http.messages import HttpError, Response, error_response

_log = logging.getLogger(__name__)

_SILENCE_S, _LINGER_S = 2.0, 30.0
"""Time for which a refused client may be silent, and may continue to send; then the connection is aborted."""
_FOR_A_REQUEST = (Waiting.FIRST_REQUEST, Waiting.NEXT_REQUEST)


class HttpConnection(asyncio.Protocol):
    """A connection of a client."""

    def __init__(self, app: HttpApp, connections: set[HttpConnection], dates: Dates) -> None:
        self.transport: asyncio.Transport
        self.closes_after_response = False
        """True if the next response closes the connection."""
        self._app = app
        self._connections = connections
        self._dates = dates
        self._queue: deque[Exchange] = deque()
        """Requests without a response, in their order; the first one is being served."""
        self._requests = RequestParser(app, self._queue.append)
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._expired)
        self._is_closing = False
        self._lingers_until_s = 0.0
        """Time of the event loop at which a client that is still sending is aborted; 0 if it is not allowed to send."""
        self._is_reading_paused = False
        self._unsent_bytes = 0
        """Bytes in the buffer of the transport when the client was last seen to read."""
        self._is_writing_paused = False

    @property
    def is_answering(self) -> bool:
        """True while the handler of a request has not delivered its response."""
        return bool(self._queue) and self._queue[0].is_started

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit of the first request; refuse one connection too many."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._connections.add(self)
        self._deadline.expect(Waiting.FIRST_REQUEST, connection_limits.HEADER_TIME_S)
        limit = self._app.limits.max_connections
        if len(self._connections) > limit:
            text = f"at most {limit} connections can be open: try again in a second"
            self._refuse(HttpError(503, text, (("retry-after", "1"),)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the requests."""
        self._connections.discard(self)
        self._deadline.cancel()
        self._forget_requests()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, then serve the requests that are complete."""
        if self._is_closing:
            self._linger()
            return
        if self._requests.has_ended:
            return
        try:
            self._requests.feed(data)
        except HttpError as error:
            self._refuse(error)
        else:
            self._serve()

    def eof_received(self) -> bool:
        """Send the responses of complete requests to a client that sends no more."""
        self._requests.has_ended = True
        if self._requests.receiving is not None or not self._queue:
            return False  # asyncio closes the connection
        self._queue[-1].keeps_alive = False
        return self.transport.get_extra_info("sslcontext") is None  # TLS has no half-closed connections

    def pause_writing(self) -> None:
        """Send nothing further until the client reads what was sent."""
        self._is_writing_paused = True
        self._expect_reading()

    def resume_writing(self) -> None:
        """Continue after the client has read."""
        self._is_writing_paused = False
        self._expect_reading()
        if not self._is_closing:
            self._serve()

    def shutdown(self) -> None:
        """Close the connection after the requests that have arrived."""
        if self._queue:
            self._queue[-1].keeps_alive = False
        else:
            self._close()

    def _serve(self) -> None:
        """Answer the requests whose turn it is."""
        queue = self._queue
        while queue and not self._is_writing_paused:
            exchange = queue[0]
            response = exchange.response or self._response_to(exchange)
            if response is None:
                break
            self._send(exchange, response)
        if not self._is_closing and not self._is_writing_paused:
            self._set_pace()

    def _response_to(self, exchange: Exchange) -> Response | None:
        """Return the response to the first request of the queue; None if it follows later."""
        if not exchange.is_complete:
            if exchange.must_continue:
                exchange.must_continue = False
                self.transport.write(CONTINUE)
            return None
        if exchange.is_started:
            return None
        outcome = self._app.handle(exchange)
        if isinstance(outcome, Response):
            return outcome
        if outcome.outcome is not None:
            return self._app.finished(exchange, outcome.outcome)
        outcome.pass_to(partial(self._deliver, exchange))
        return None

    def _deliver(self, exchange: Exchange, outcome: Response | Exception) -> None:
        """Send a response that has become known."""
        exchange.response = self._app.finished(exchange, outcome)
        if self._is_closing:
            self._app.release(exchange)
        else:
            self._serve()

    def _send(self, exchange: Exchange, response: Response) -> None:
        """Send the response to the first request of the queue."""
        self._queue.popleft()
        waits_to_send = exchange.must_continue and not exchange.is_complete  # a body may follow the refusal, or none
        closes = self._app.draining or self.closes_after_response or not exchange.keeps_alive or waits_to_send
        with_body = exchange.method != "HEAD"
        try:
            raw = encoded(response, self._dates.line(), closes=closes, with_body=with_body)
        except ValueError as error:
            _log.error("a response cannot be sent path=%s", exchange.path, exc_info=error)
            refusal = error_response(OperationError(str(error)))
            raw = encoded(refusal, self._dates.line(), closes=closes, with_body=with_body)
        self._app.release(exchange)
        self.transport.write(raw)
        if closes:
            self._close(lingers=not exchange.is_complete)
        elif not self._queue and not self._is_writing_paused:
            self._deadline.expect(Waiting.NEXT_REQUEST, connection_limits.KEEP_ALIVE_S)

    def _set_pace(self) -> None:
        """Set the time limit of the next event; read no further while several requests wait."""
        self._pause_reading(is_paused=len(self._queue) > 1)
        deadline = self._deadline
        if self._is_reading_paused:
            deadline.lift()
        elif self._requests.receiving is not None:
            deadline.expect(Waiting.BODY, connection_limits.BODY_IDLE_S)
        elif self._requests.is_in_headers:
            if deadline.waiting is not Waiting.HEADERS:
                deadline.expect(Waiting.HEADERS, connection_limits.HEADER_TIME_S)
        elif self._queue:
            deadline.lift()
        elif deadline.waiting not in _FOR_A_REQUEST:
            deadline.expect(Waiting.NEXT_REQUEST, connection_limits.KEEP_ALIVE_S)

    def _pause_reading(self, *, is_paused: bool) -> None:
        if is_paused != self._is_reading_paused:
            self._is_reading_paused = is_paused
            (self.transport.pause_reading if is_paused else self.transport.resume_reading)()

    def _expired(self, waiting: Waiting) -> None:
        """End a connection whose client is too slow."""
        if waiting is Waiting.HEADERS:
            self._refuse(HttpError(408, connection_limits.too_slow("headers", connection_limits.HEADER_TIME_S)))
        elif waiting is Waiting.BODY:
            self._refuse(HttpError(408, connection_limits.too_slow("next chunk of the body", connection_limits.BODY_IDLE_S)))
        elif waiting in _FOR_A_REQUEST:
            self._close()
        elif waiting is Waiting.CLIENT_READS and self.transport.get_write_buffer_size() < self._unsent_bytes:
            self._expect_reading()  # it reads slowly
        else:
            self.transport.abort()

    def _expect_reading(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._deadline.expect(Waiting.CLIENT_READS, connection_limits.CLIENT_READS_S)

    def _refuse(self, error: HttpError) -> None:
        """Send a refusal after the responses to earlier requests, and close the connection."""
        _log.info("refused request error=%s", error)
        self._requests.has_ended, self._requests.is_in_headers = True, False
        exchange, self._requests.receiving = self._requests.receiving, None
        if exchange is None:
            exchange = Exchange("", b"", {})
            self._queue.append(exchange)
        elif exchange not in self._queue:  # it has its response already
            self._close(lingers=True)
            return
        exchange.keeps_alive = False
        exchange.response = exchange.response or error_response(error)
        self._serve()

    def _close(self, *, lingers: bool = False) -> None:
        """Close the connection after what was sent.

        With `lingers`, the client may still be sending: its bytes are read and ignored for a while, because the operating system
        would answer them with a reset, which can overtake the last response (RFC 9112, section 9.6).
        """
        self._forget_requests()
        if lingers and self.transport.can_write_eof():
            self._pause_reading(is_paused=False)
            self._lingers_until_s = self._loop.time() + _LINGER_S
            self._linger()
            self.transport.write_eof()
            return
        self._expect_reading()
        self.transport.close()

    def _linger(self) -> None:
        """Allow a client that is still sending some time, but not without end."""
        if self._lingers_until_s:
            self._deadline.expect(Waiting.CLOSE, min(_SILENCE_S, self._lingers_until_s - self._loop.time()))

    def _forget_requests(self) -> None:
        """Release the memory of all requests; that of one that is being handled follows when its handler ends."""
        self._is_closing = True
        for exchange in self._queue:
            if not exchange.is_started:
                self._app.release(exchange)
        self._queue.clear()
