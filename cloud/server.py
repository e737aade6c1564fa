"""The listener: uvicorn with client certificates, which it passes to the application; plain HTTP on loopback if configured so.

Uvicorn does not implement the ASGI TLS extension, so the protocol class here adds the client certificate. The TLS handshake
verifies the chain; `cloud/auth.py` identifies the device and checks the revocation for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from cloud.connection_limits import LimitedHttpProtocol
from cloud.db.changes import Changes

_GRACE_S = 5


class ClientCertificateProtocol(LimitedHttpProtocol):
    """HTTP protocol with the client certificate in the ASGI scope (https://asgi.readthedocs.io/en/latest/specs/tls.html)."""

    _tls: dict[object, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the certificate once per connection."""
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True) if connection else None
        self._tls = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else []}

    def on_message_begin(self) -> None:
        """Add the certificate to the scope of the request."""
        super().on_message_begin()
        self.scope["extensions"] = {"tls": self._tls or {}}

    def shutdown(self) -> None:
        """Abort an idle connection: TLS would wait for a close_notify that an idle client does not send."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()


class Server(uvicorn.Server):
    """A uvicorn server that ends long-polls before it shuts down on SIGTERM or SIGINT."""

    def __init__(self, config: uvicorn.Config, changes: Changes) -> None:
        super().__init__(config)
        self._changes = changes

    @contextlib.contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Shut down on SIGTERM or SIGINT while the block runs, also before the first request is served."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `ended_by_signals`: uvicorn would raise them again after the shutdown."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End long-polls, then shut down as uvicorn does."""
        self._changes.close()
        await super().shutdown(sockets)


def create(app: ASGIApp, changes: Changes, *, ca_file: Path, server_files: tuple[Path, Path] | None) -> Server:
    """Return the listener of an application; without certificate and key in `server_files`, it speaks plain HTTP."""
    config = uvicorn.Config(
        app,
        http=ClientCertificateProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_context_factory=None if server_files is None else lambda _config, _default: _tls(ca_file, *server_files),
    )
    return Server(config, changes)


def _tls(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(certificate_file, key_file)
    return context
