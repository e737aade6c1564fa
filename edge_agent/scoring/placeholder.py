"""Who answers at the scoring address before there is any model: 503 and one line, instead of a connection that hangs."""

from __future__ import annotations

import asyncio
import json
import socket

_BODY = json.dumps({"error": "this device has no model yet: roll one out to it, then ask again"}).encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
)
_REQUEST_TIMEOUT_S = 5.0


class Reception:
    """Answers on a listening socket until the first runner takes over."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begin to answer."""
        if self._server is None:
            self._server = await asyncio.start_server(_answer, sock=self._listening.dup())

    async def close(self) -> None:
        """Stop answering; the listening socket stays."""
        if self._server is not None:
            self._server.close()
            self._server = None


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_ANSWER)
            await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # whoever asked has gone, or did not ask in HTTP
    finally:
        writer.close()
