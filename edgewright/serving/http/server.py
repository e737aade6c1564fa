"""Run the scoring application on a listening socket until SIGTERM or SIGINT.

The caller creates the socket, so its port is known before the server accepts requests. On a signal the server
accepts no new connection, answers the pending requests and returns; the caller then ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket as sockets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import uvloop

from edgewright.serving.http import connection_limits
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.connections.connection import HttpConnection
from edgewright.serving.http.connections.response_bytes import Dates
from edgewright.serving.http.listening import BACKLOG, TlsFiles, listen

__all__ = ["Companion", "ScoringServer", "TlsFiles", "listen", "make_server", "run_server"]

DRAIN_LIMIT_S = 30
"""Time limit for pending requests after the signal."""
LAST_REQUEST_S = 1.0
"""Time in which an open connection may send one more request; its response then closes it."""
_TLS_CLOSE_S = 2.0
"""Time in which a client of TLS answers the end of the connection."""
_LOOK_S = 0.02


class Companion(Protocol):
    """A server of the same application over another transport."""

    async def start(self) -> None:
        """Accept requests."""

    async def stop(self) -> None:
        """Accept no new request and return when the open ones were answered."""


class ScoringServer:
    """A server that drains on SIGTERM or SIGINT, or from another thread on `should_exit`; a second signal ends it at once."""

    def __init__(self, app: HttpApp, tls: TlsFiles | None, started: Callable[[], None], companion: Companion | None) -> None:
        self.connections: set[HttpConnection] = set()
        self._app = app
        self._companion = companion
        self._started = started
        self._tls = None if tls is None else _tls_context(tls)
        self._exits = threading.Event()
        self._is_forced = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._servers: list[asyncio.Server] = []
        self._leaving: asyncio.Task[None] | None = None

    @property
    def should_exit(self) -> bool:
        """True once the server ends or will end; may be set from any thread."""
        return self._exits.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        assert value, "an end cannot be taken back"
        self._exits.set()
        if self._loop is not None and self._ending is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                self._loop.call_soon_threadsafe(self._ending.set)

    def run(self, sockets: Sequence[sockets.socket]) -> None:
        """Serve on listening sockets until the end; errors of the start are raised."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run(sockets))

    async def _run(self, listening: Sequence[sockets.socket]) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        if self._exits.is_set():
            self._ending.set()
        with self._handling_signals(self._loop):
            await self._app.start()
            if self._companion is not None:
                await self._companion.start()
            self._servers = [await self._listen(self._loop, each) for each in listening]
            self._started()
            await self._ending.wait()
            await self._drain()

    async def _listen(self, loop: asyncio.AbstractEventLoop, listening: sockets.socket) -> asyncio.Server:
        dates = Dates()
        create = loop.create_unix_server if listening.family is sockets.AF_UNIX else loop.create_server
        return await create(
            lambda: HttpConnection(self._app, self.connections, dates),
            sock=listening,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else connection_limits.HEADER_TIME_S,
            ssl_shutdown_timeout=None if self._tls is None else _TLS_CLOSE_S,
        )

    def leave_last_socket(self) -> None:
        """Accept no new connection on the last socket, where another process accepts already; call it in the event loop.

        Each open connection of the socket is closed after its next response.
        """
        if len(self._servers) > 1:
            left = self._servers.pop()
            address = left.sockets[0].getsockname()
            left.close()
            self._leaving = asyncio.create_task(self._close_connections_at(address))

    async def _close_connections_at(self, address: tuple[str, int]) -> None:
        here = [each for each in self.connections if each.transport.get_extra_info("sockname") == address]
        for connection in here:
            connection.closes_after_response = True
        await self._wait_until(lambda: self.connections.isdisjoint(here), LAST_REQUEST_S)
        for connection in self.connections.intersection(here):
            connection.shutdown()

    async def _drain(self) -> None:
        """Accept no new connection, and close each open one after its next response.

        Closing an open connection at once would lose a request that its client is just sending.
        """
        self._app.draining = True
        for server in self._servers:
            server.close()
        stopping = None if self._companion is None else asyncio.create_task(self._companion.stop())
        await self._wait_until(lambda: not self.connections, LAST_REQUEST_S)
        for connection in list(self.connections):
            connection.shutdown()
        await self._wait_until(lambda: not self.connections and not self._app.open_count, DRAIN_LIMIT_S)
        for connection in list(self.connections):
            connection.transport.abort()
        if stopping is not None:
            await stopping
        await self._app.stop()

    async def _wait_until(self, condition: Callable[[], bool], limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while not condition() and not self._is_forced and time.monotonic() < deadline_s:
            await asyncio.sleep(_LOOK_S)

    @contextlib.contextmanager
    def _handling_signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Drain on signals while the block runs; only the main thread can handle them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _end(self) -> None:
        self._is_forced = self.should_exit
        self.should_exit = True


def make_server(
    app: HttpApp,
    *,
    tls: TlsFiles | None = None,
    started: Callable[[], None] = lambda: None,
    companion: Companion | None = None,
) -> ScoringServer:
    """Return a server for `app`; it writes no access log, and ignores the headers of proxies (X-Forwarded-For)."""
    return ScoringServer(app, tls, started, companion)


def run_server(
    app: HttpApp,
    *,
    socket: sockets.socket,
    tls: TlsFiles | None = None,
    started: Callable[[], None] = lambda: None,
    companion: Companion | None = None,
) -> None:
    """Serve `app` on a listening `socket`; return after SIGTERM, once every open request was answered.

    `started` is called when the server and its companion accept requests. Errors of their start are raised.
    """
    server = make_server(app, tls=tls, started=started, companion=companion)
    app.watch(server.connections)
    gc.freeze()  # what was loaded stays, so the collector need not look at it: that takes 20 ms, the time of 1000 requests
    try:
        server.run(sockets=[socket])
    finally:
        app.close()


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.private_key)
    context.set_alpn_protocols(["http/1.1"])
    return context
