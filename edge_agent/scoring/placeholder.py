"""Answer scoring requests with 503 until the first model runs, so that clients get an error instead of a hanging connection."""

from __future__ import annotations

import asyncio
import json
import socket

_BODY = json.dumps({"error": "this device has no model yet: roll one out to it, then try again"}).encode()
_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
)
_REQUEST_TIMEOUT_S = 5.0


class Placeholder:
    """Server on the scoring socket until the first runner takes over."""

    def __init__(self, server_socket: socket.socket) -> None:
        self._socket = server_socket
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start to answer."""
        if self._server is None:
            self._server = await asyncio.start_server(_answer, sock=self._socket.dup())

    async def close(self) -> None:
        """Stop answering; the scoring socket stays open."""
        if self._server is not None:
            self._server.close()
            self._server = None


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_RESPONSE[: -len(_BODY)] if head.startswith(b"HEAD ") else _RESPONSE)
            await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the client disconnected, or it does not speak HTTP
    finally:
        writer.close()
