"""Answer scoring requests with 503 while no model runs, so that clients get an error instead of a hanging connection."""

from __future__ import annotations

import asyncio
import json
import socket

_HEAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 10\r\nConnection: close\r\n"
_REQUEST_TIMEOUT_S = 5.0


class Placeholder:
    """Server on the scoring socket while no server process uses it."""

    def __init__(self, server_socket: socket.socket, reason: str) -> None:
        self._socket = server_socket
        self._server: asyncio.Server | None = None
        self._reason = reason

    async def open(self, reason: str) -> None:
        """Start to answer with `reason`."""
        self._reason = reason
        if self._server is None:
            self._server = await asyncio.start_server(self._answer, sock=self._socket.dup())

    async def close(self) -> None:
        """Stop answering; the scoring socket stays open."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"error": self._reason}).encode()
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
                head = _HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
                writer.write(head if request.startswith(b"HEAD ") else head + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client disconnected, or it does not speak HTTP
        finally:
            writer.close()
