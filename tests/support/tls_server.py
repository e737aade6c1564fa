"""HTTPS server for a thread; it can close all connections at once, like a cloud that stops."""

from __future__ import annotations

import ssl
import traceback
from http.server import ThreadingHTTPServer
from typing import Any


class TlsServer(ThreadingHTTPServer):
    """Server that wraps each connection in TLS in its own thread."""

    daemon_threads = True
    allow_reuse_address = True
    tls: ssl.SSLContext

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()
        self.errors: list[str] = []

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(10)
            wrapped = self.tls.wrap_socket(request, server_side=True)
        except OSError:
            return
        wrapped.settimeout(None)
        self._open.add(wrapped)
        try:
            super().finish_request(wrapped, client_address)
        except OSError:
            pass
        finally:
            self._open.discard(wrapped)
            wrapped.close()

    def end_connections(self) -> None:
        for connection in tuple(self._open):
            try:
                connection.shutdown(2)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the traceback of a bug in this fake; `finish_request` handles clients that disconnect."""
        self.errors.append(traceback.format_exc())
