"""Run the scoring application on a listening socket until SIGTERM or SIGINT.

The caller creates the socket, so its port is known before the server accepts requests. On a signal the server
accepts no new connection, answers the pending requests and returns; the caller then ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn

from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.connection_limits import LimitedHttpProtocol
from edgewright.serving.http.listening import TlsFiles, listen

__all__ = ["Companion", "ScoringServer", "TlsFiles", "listen", "make_server", "run_server"]

DRAIN_LIMIT_S = 30
"""Time limit for pending requests after the signal."""
LAST_REQUEST_S = 1.0
"""Time in which an open connection may send one more request; its response then closes it."""


class Companion(Protocol):
    """A server of the same application over another transport."""

    async def start(self) -> None:
        """Accept requests."""

    async def stop(self) -> None:
        """Accept no new request and return when the open ones were answered."""


class ScoringServer(uvicorn.Server):
    """A uvicorn server that drains on SIGTERM, or from another thread on `should_exit`."""

    def __init__(
        self, app: HttpApp, config: uvicorn.Config, started: Callable[[], None], companion: Companion | None = None
    ) -> None:
        super().__init__(config)
        self._app = app
        self._companion = companion
        self._started = started

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        """Start the application first; its errors end the server."""
        await self._app.start()
        if self._companion is not None:
            await self._companion.start()
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Accept no new connection, and close each open one after its next response.

        Closing an open connection at once, as uvicorn does, would lose a request that its client is just sending.
        """
        self._app.draining = True
        for server in self.servers:
            server.close()
        stopping = None if self._companion is None else asyncio.create_task(self._companion.stop())
        deadline_s = time.monotonic() + LAST_REQUEST_S
        while self.server_state.connections and time.monotonic() < deadline_s and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if stopping is not None:
            await stopping
        await self._app.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals without raising them again afterwards, as the base class does, because draining is a success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(
    app: HttpApp,
    *,
    tls: TlsFiles | None = None,
    started: Callable[[], None] = lambda: None,
    companion: Companion | None = None,
) -> ScoringServer:
    """Return a server for `app` with limited connections, no access log, and without the headers of proxies (X-Forwarded-For)."""
    return ScoringServer(
        app,
        uvicorn.Config(
            app,
            http=LimitedHttpProtocol,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_LIMIT_S,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.private_key,
        ),
        started,
        companion,
    )


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
    app.watch(server.server_state.connections)
    try:
        server.run(sockets=[socket])
    finally:
        app.close()
