"""An HTTPS server in a thread whose connections can be ended all at once, as a cloud that goes away ends them."""

from __future__ import annotations

import ssl
import traceback
from http.server import ThreadingHTTPServer
from typing import Any


class TlsServer(ThreadingHTTPServer):
    """Wraps each connection in TLS in its own thread, and can end all of them at once."""

    daemon_threads = True
    allow_reuse_address = True
    tls: ssl.SSLContext

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._open: set[Any] = set()
        self.bugs: list[str] = []

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
        """Keep what is a bug of this fake; a client that went away is part of the tests."""
        self.bugs.append(traceback.format_exc())
