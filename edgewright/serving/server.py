"""Serve an application on a socket that listens already, until someone asks the process to end.

The socket comes from the caller, so that whoever starts a server knows its port before it answers. On SIGTERM or SIGINT no new
connection is taken, what is on its way is answered, and the call returns: the process ends as its caller wants, not by a signal.
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
from edgewright.serving.app import ScoringApp

DRAIN_LIMIT_S = 30
"""How long requests that are on their way may take once the process was asked to end."""
LAST_WORD_S = 1.0
"""How long an open connection may take to send one more request; its answer then closes it."""
BACKLOG = 256


class ScoringServer(uvicorn.Server):
    """A server that ends quietly on SIGTERM; from another thread, by `should_exit`."""

    def __init__(self, app: ScoringApp, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Take no new connection, and let each open one have its next answer before it is closed.

        Closing an open connection at once, as uvicorn does, would lose the request that its client is just sending.
        """
        self._app.draining = True
        for server in self.servers:
            server.close()
        deadline_s = time.monotonic() + LAST_WORD_S
        while self.server_state.connections and time.monotonic() < deadline_s and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals without passing them on afterwards, as the base class does: drained is a good end."""
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
    """Return a listening socket; port 0 takes a free one. Raises `BadInputError` when the port is taken."""
    listening = sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET, sockets.SOCK_STREAM)
    try:
        listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as taken:
        listening.close()
        raise BadInputError(f"cannot listen on {host} port {port}: {taken.strerror}; choose another port") from taken
    return listening


def make_server(app: ScoringApp) -> ScoringServer:
    """Return a server for `app` that writes no access log and takes nobody's word for a client's address."""
    return ScoringServer(
        app,
        uvicorn.Config(
            app,
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


def run_server(app: ScoringApp, *, socket: sockets.socket) -> None:
    """Serve `app` on `socket`, which listens already; return when SIGTERM came and every request was answered."""
    try:
        make_server(app).run(sockets=[socket])
    finally:
        app.close()
