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
from collections.abc import Iterator

import uvicorn

from edgewright.errors import BadInputError
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.connection_limits import LimitedHttpProtocol

DRAIN_LIMIT_S = 30
"""Time limit for pending requests after the signal."""
LAST_REQUEST_S = 1.0
"""Time in which an open connection may send one more request; its response then closes it."""
BACKLOG = 256


class ScoringServer(uvicorn.Server):
    """A uvicorn server that drains on SIGTERM, or from another thread on `should_exit`."""

    def __init__(self, app: HttpApp, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Accept no new connection, and close each open one after its next response.

        Closing an open connection at once, as uvicorn does, would lose a request that its client is just sending.
        """
        self._app.draining = True
        for server in self.servers:
            server.close()
        deadline_s = time.monotonic() + LAST_REQUEST_S
        while self.server_state.connections and time.monotonic() < deadline_s and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

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


def listen(host: str = "127.0.0.1", port: int = 0) -> sockets.socket:
    """Return a listening socket; port 0 picks a free port.

    Raises:
        BadInputError: the port is in use, or the host is not an address of this machine.
    """
    listening = sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET, sockets.SOCK_STREAM)
    try:
        listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise BadInputError(f"cannot listen on {host} port {port}: {error.strerror}; choose another port") from error
    return listening


def make_server(app: HttpApp) -> ScoringServer:
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
        ),
    )


def run_server(app: HttpApp, *, socket: sockets.socket) -> None:
    """Serve `app` on a listening `socket`; return after SIGTERM, once every open request was answered."""
    server = make_server(app)
    app.watch(server.server_state.connections)
    try:
        server.run(sockets=[socket])
    finally:
        app.close()
