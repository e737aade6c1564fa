"""Pass the connections of a listening socket to another address, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

_PIECE_BYTES = 1 << 16


class Relay:
    """Connections between a listening socket and one address: a host and a port, or the path of a Unix socket."""

    def __init__(self, server_socket: socket.socket, address: tuple[str, int] | Path) -> None:
        self._socket = server_socket
        self._address = address
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start to accept connections."""
        self._server = await asyncio.start_server(self._accept, sock=self._socket)

    def close(self) -> None:
        """Accept no further connection; those that are open continue."""
        if self._server is not None:
            self._server.close()

    async def finished(self, *, timeout_s: float) -> None:
        """Wait until all connections are closed; close what is open after `timeout_s`."""
        if self._connections:
            _, open_ones = await asyncio.wait(self._connections, timeout=timeout_s)
            for task in open_ones:
                task.cancel()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._address, Path):
            return await asyncio.open_unix_connection(self._address)
        return await asyncio.open_connection(*self._address)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError):
                other_reader, other_writer = await self._connect()
                await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))
        finally:
            writer.close()
            self._connections.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the sender has no more; then tell the receiver so."""
    try:
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()
