"""Router: the process that accepts at the agent's address while the device has several workloads.

It reads the head of a request, chooses the workload by its path, and passes the bytes to the port of that workload and back. Each
connection carries one request, so the next one may be for another workload, and a runner that is replaced loses none.

    /w/NAME/…              the workload NAME
    /v2/models/NAME…       the same
    every other path       the first workload, which had the address for itself

The ports are in `agent.json`; a change of that file takes effect with the next request. Any one workload may fail without an
effect on the others, because no request of theirs passes through its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from edgewright.worker_process import exit_with_parent

READY = b"ready\n"
MAX_HEADER_BYTES = 64 << 10
HEADER_TIME_S = 20.0
DRAIN_TIME_S = 30.0
_LINGER_S = 2.0
_PIECE_BYTES = 1 << 16
_WORKLOAD = re.compile(r"/(?:w|v2/models)/([^/?]+)")
_HOP_BY_HOP = (b"connection:", b"keep-alive:", b"proxy-connection:")
_OWN_MODELS = ("stats",)
"""Names below `/v2/models` that are no models."""


@dataclass
class Ports:
    """The ports of the workloads, from the status file of the agent."""

    path: Path
    first: str = ""
    by_workload: dict[str, int] = field(default_factory=dict)
    _read_at: tuple[int, int] = (0, 0)

    def of(self, path: str) -> tuple[int | None, str]:
        """Return the port for a request path, or None with the reason why the path has no port."""
        self._refresh()
        match = _WORKLOAD.match(path)
        name = unquote(match[1]) if match else self.first
        if match and name in _OWN_MODELS and path.startswith("/v2/"):
            name = self.first
        port = self.by_workload.get(name)
        if port is not None:
            return port, ""
        known = ", ".join(sorted(self.by_workload)) or "none"
        if not match:
            plain = path.partition("?")[0]
            return None, f"this path belongs to no workload: use /w/NAME{plain}; workloads of this device: {known}"
        return None, f"no workload is called {name[:64]!r}; workloads of this device: {known}"

    def _refresh(self) -> None:
        try:
            stat = self.path.stat()
            if (stat.st_ino, stat.st_mtime_ns) == self._read_at:
                return
            status = json.loads(self.path.read_bytes())
        except (OSError, ValueError):  # the file is replaced as a whole; what was read last stays valid
            return
        self._read_at = (stat.st_ino, stat.st_mtime_ns)
        self.first = status.get("first", "")
        self.by_workload = {name: each["port"] for name, each in status.get("workloads", {}).items()}


class Router:
    """Connections of the agent's address and the workloads that they are passed to."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.open: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        try:
            await self._route(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client disconnected or sent no request
        except asyncio.LimitOverrunError:
            with contextlib.suppress(OSError):
                await _refuse(writer, 431, f"the headers of a request may have {MAX_HEADER_BYTES} bytes")
                await _linger(reader, writer)
        finally:
            writer.close()
            self.open.discard(task)

    async def _route(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEADER_TIME_S):
            head = await reader.readuntil(b"\r\n\r\n")
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        if len(parts) != 3:
            await _refuse(writer, 400, "a request must begin with a method, a path and a version of HTTP")
            await _linger(reader, writer)
            return
        port, reason = self._ports.of(parts[1].decode("latin-1"))
        if port is None:
            await _refuse(writer, 404 if self._ports.by_workload else 503, reason)
            await _linger(reader, writer)
            return
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        sending = asyncio.create_task(_send(_closing(head), reader, other_writer))
        try:
            while piece := await other_reader.read(_PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
        finally:
            sending.cancel()
            other_writer.close()
            await asyncio.gather(sending, return_exceptions=True)
        await _linger(reader, writer)


async def _send(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the head of a request and what follows; the end of the client's bytes is no end of its request."""
    writer.write(head)
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the response, and ignore what the client still sends: a reset could overtake the response (RFC 9112, section 9.6)."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(_PIECE_BYTES):
                pass


def _closing(head: bytes) -> bytes:
    """Return the head of a request with `Connection: close`, so that the workload ends the connection after its response."""
    lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(_HOP_BY_HOP)]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""])


async def _refuse(writer: asyncio.StreamWriter, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def serve(server_socket: socket.socket, status_file: Path) -> None:
    """Accept at `server_socket` until SIGTERM; then finish the open requests."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    router = Router(Ports(status_file))
    server = await asyncio.start_server(router.accept, sock=server_socket, limit=MAX_HEADER_BYTES)
    os.write(1, READY)
    await stopped.wait()
    server.close()
    if router.open:
        await asyncio.wait(router.open, timeout=DRAIN_TIME_S)


if __name__ == "__main__":
    exit_with_parent(gracefully=True)
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])))
