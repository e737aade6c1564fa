"""Run the scoring application on a listening socket until SIGTERM or SIGINT.

The caller creates the socket, so its port is known before the server accepts requests. On a signal the server
accepts no new connection, answers the pending requests and returns; the caller then ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket as sockets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn

from edgewright.errors import BadInputError
from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.connection_limits import LimitedHttpProtocol
from edgewright.worker_process import exit_with_parent

DRAIN_LIMIT_S = 30
"""Time limit for pending requests after the signal."""
LAST_REQUEST_S = 1.0
"""Time in which an open connection may send one more request; its response then closes it."""
BACKLOG = 256
SOCKET_VARIABLE = "EDGEWRIGHT_LISTEN_FD"
"""Environment variable with the descriptor of an inherited listening socket."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate chain and its private key, in PEM."""

    certificate: Path
    private_key: Path

    @classmethod
    def of(cls, certificate: Path | None, private_key: Path | None) -> TlsFiles | None:
        """Return both files, or None without any.

        Raises:
            BadInputError: only one was given, one cannot be read, or they do not belong together.
        """
        if certificate is None and private_key is None:
            return None
        if certificate is None or private_key is None:
            raise BadInputError("--certificate and --private-key must be given together: add the other one")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, private_key)
        except (OSError, ssl.SSLError) as error:
            text = f"{certificate} and {private_key} must be a certificate and its private key in PEM: {error}"
            raise BadInputError(text) from error
        return cls(certificate, private_key)


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


def listen(host: str = "127.0.0.1", port: int = 0) -> sockets.socket:
    """Return a listening socket; port 0 picks a free port.

    A supervisor passes its own socket by the variable `SOCKET_VARIABLE`; this process then ends when the supervisor does.

    Raises:
        BadInputError: the port is in use, or the host is not an address of this machine.
    """
    inherited = os.environ.pop(SOCKET_VARIABLE, None)  # not for the processes of a script
    if inherited is not None:
        exit_with_parent(gracefully=True)
        return sockets.socket(fileno=int(inherited))
    listening = sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET, sockets.SOCK_STREAM)
    try:
        listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise BadInputError(f"cannot listen on {host} port {port}: {error.strerror}; choose another port") from error
    return listening


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
