"""Router: the process that accepts at the address of a service with several deployments.

It reads the head of a request, chooses the deployment, and passes the bytes there and back. Connections stay open on both sides.

    header azureml-model-deployment: NAME     the deployment NAME, as with Azure ML's online endpoints
    /deployments/NAME/…                       the same; the deployment gets the rest of the path
    every other request                       by the percentages of the traffic

The file of the traffic is read again when it changes; a change takes effect with the next request. Keys are checked by the
deployments. A request whose connection ends before its response begins is sent once more, on a new connection: a server that is
replaced closes the connections that it does not use, and that may cross with a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
from collections.abc import Callable
from typing import cast

import httptools

from edgewright.errors import NotFoundError
from edgewright.serving.traffic.file import TrafficFile

DEPLOYMENT_HEADER = "azureml-model-deployment"
MAX_HEAD_BYTES = 64 << 10
MAX_HELD_BYTES = 1 << 20
"""A larger request is neither sent again nor copied."""
MAX_COPIES = 64
"""Copies that wait for their responses; further ones are left out, so that a slow deployment takes no memory."""
HEAD_TIME_S = 20.0
COPY_TIME_S = 60.0
DRAIN_TIME_S = 30.0
_FIELDS = re.compile(rb"\r\n(content-length|transfer-encoding|azureml-model-deployment)[ \t]*:[ \t]*([^\r\n]*)", re.I)
_HOP_BY_HOP = re.compile(rb"\r\n(?:connection|keep-alive|proxy-connection)[ \t]*:[^\r\n]*", re.I)
_NAMED_PATH = re.compile(r"/deployments/([^/?]+)(/[^ ]*)?")


class Upstream(asyncio.Protocol):
    """A connection to a deployment; it belongs to one client's connection, and carries one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._is_head = False
        self.transport: asyncio.Transport | None = None
        self.has_begun = False
        self._is_complete = self._keeps_open = False
        self._mark = b""

    def expect(self, mark: bytes, *, is_head: bool) -> None:
        """Prepare for the response of the next request; `mark` is a header line that is added to it."""
        self._parser = httptools.HttpResponseParser(self)
        self._mark, self._is_head = mark, is_head
        self.has_begun = self._is_complete = self._keeps_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        """Pass on a part of a response."""
        if self._client.upstream is not self:  # no request is open on this connection
            self.close()
            return
        first, self.has_begun = not self.has_begun, True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._client.close()
            return
        if first and (end := data.find(b"\r\n")) > 0:
            data = b"".join((data[:end], self._mark, data[end:]))
        self._client.transport.write(data)
        if self._is_complete:
            self._client.finish(keeps_open=self._keeps_open)

    def on_headers_complete(self) -> None:
        """End the response to HEAD (called by the parser)."""
        if self._is_head:
            self.on_message_complete()

    def on_message_complete(self) -> None:
        """End a response, but not an interim one (called by the parser)."""
        self._is_complete = self._parser.get_status_code() >= 200
        self._keeps_open = self._parser.should_keep_alive()  # the parser forgets it with the end of the message

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, or send its request again."""
        self.transport = None
        self._client.lost(self)

    def pause_writing(self) -> None:
        """Read no more of the request."""
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        self._client.transport.resume_reading()

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.close()


class Client(asyncio.Protocol):
    """A connection of a client: its requests one after the other, each to a deployment."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._waiting = bytearray()
        self._upstreams: dict[str, Upstream] = {}
        self._address = ""
        self._body_left = 0
        self._is_last = False
        self._is_again = False
        self._held: bytearray | None = None
        self._mirror: str | None = None
        self._mark, self._is_head = b"", False
        self._late: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.upstream: Upstream | None = None
        self.transport: asyncio.Transport

    @property
    def is_idle(self) -> bool:
        """True if no request is open."""
        return self.upstream is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self._router.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connections to the deployments."""
        self._router.clients.discard(self)
        self.upstream = None
        self._stop_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        for each in self._upstreams.values():
            each.close()

    def data_received(self, data: bytes) -> None:
        """Pass on a part of a request, or begin the next one."""
        if self.upstream is None or (self._body_left == 0 and not self._is_last):
            self._waiting += data
            if self.upstream is None:
                self._begin()
            elif len(self._waiting) > MAX_HEAD_BYTES:
                self.transport.pause_reading()  # until the response to the open request is complete
            return
        piece = data if self._is_last else data[: self._body_left]
        self._body_left = 0 if self._is_last else self._body_left - len(piece)
        self._waiting += data[len(piece) :]
        self._send(piece)

    def pause_writing(self) -> None:
        """Read no more of the response."""
        if self.upstream is not None and self.upstream.transport is not None:
            self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if self.upstream is not None and self.upstream.transport is not None:
            self.upstream.transport.resume_reading()

    def finish(self, *, keeps_open: bool) -> None:
        """End an exchange; begin the next one."""
        if self._mirror is not None and self._held is not None and not self._body_left:
            self._router.copy(self._mirror, bytes(self._held))
        self.upstream, self._held = None, None
        if not keeps_open or self._is_last or self._body_left or self._router.is_draining:
            self.close()
            return
        self.transport.resume_reading()
        if self._waiting:
            self._begin()

    def lost(self, upstream: Upstream) -> None:
        """React to the end of a deployment's connection."""
        if self._upstreams.get(self._address) is upstream:
            del self._upstreams[self._address]
        else:
            self._upstreams = {address: each for address, each in self._upstreams.items() if each is not upstream}
        if self.upstream is not upstream:
            return
        if upstream.has_begun:
            self.close()  # a response that ends with its connection, or one that was cut
        elif self._is_again or self._held is None:
            self._refuse(502, "the deployment ended the connection without a response")
        else:
            self._is_again = True
            self._open(bytes(self._held))

    def close(self) -> None:
        """End the connection after what was written."""
        self.transport.close()

    def _begin(self) -> None:
        end = self._waiting.find(b"\r\n\r\n")
        if end < 0:
            if len(self._waiting) > MAX_HEAD_BYTES:
                self._refuse(431, f"the headers of a request may have {MAX_HEAD_BYTES} bytes")
            elif self._late is None:
                self._late = asyncio.get_running_loop().call_later(HEAD_TIME_S, self.close)
            return
        self._stop_timer()
        head = bytes(self._waiting[: end + 4])
        del self._waiting[: end + 4]
        try:
            head = self._choose(head)
        except NotFoundError as error:
            self._refuse(404, str(error))
        except ValueError as error:
            self._refuse(400, str(error))
        else:
            body = bytes(self._waiting) if self._is_last else bytes(self._waiting[: self._body_left])
            del self._waiting[: len(body)]
            self._body_left -= 0 if self._is_last else len(body)
            self._is_again = False
            self._held = bytearray()
            self._start(head + body)

    def _choose(self, head: bytes) -> bytes:
        """Choose the deployment and the length of a request; return its head as the deployment gets it."""
        line_end = head.index(b"\r\n")
        parts = head[:line_end].split(b" ")
        if len(parts) != 3:
            raise ValueError("a request must begin with a method, a path and a version of HTTP")
        lengths, is_last, named = set(), False, ""
        for key, value in _FIELDS.findall(head, line_end):
            match key.lower():
                case b"content-length":
                    lengths.add(value.strip())
                case b"azureml-model-deployment":
                    named = value.strip().decode("latin-1")
                case _:
                    is_last = True  # its end is not in its head: the connection is passed on until the response is complete
        if len(lengths) > 1 or (is_last and lengths) or not all(each.isdigit() for each in lengths):
            raise ValueError("a request must have one length: one Content-Length, or Transfer-Encoding")
        if parts[1].startswith(b"/deployments/") and (match := _NAMED_PATH.fullmatch(parts[1].decode("latin-1"))):
            named = match[1]
            head = b"".join((parts[0], b" ", (match[2] or "/").encode("latin-1"), b" ", parts[2], head[line_end:]))
        if is_last:
            head = _HOP_BY_HOP.sub(b"", head)[:-2] + b"Connection: close\r\n\r\n"
        name = self._router.next_deployment(named)
        self._address = self._router.file.traffic.address_of(name)
        self._mirror = None if named or is_last else self._router.file.turns.mirror()
        self._body_left, self._is_last = int(next(iter(lengths), b"0")), is_last
        self._mark, self._is_head = f"\r\n{DEPLOYMENT_HEADER}: {name}".encode(), parts[0] == b"HEAD"
        return head

    def _start(self, data: bytes) -> None:
        upstream = self._upstreams.get(self._address)
        if upstream is None or upstream.transport is None or upstream.transport.is_closing():
            self._hold(data)
            self._open(data)
            return
        upstream.expect(self._mark, is_head=self._is_head)
        self.upstream = upstream
        self._send(data)

    def _hold(self, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            if len(self._held) > MAX_HELD_BYTES:
                self._held = None

    def _send(self, data: bytes) -> None:
        self._hold(data)
        if self.upstream is not None and self.upstream.transport is not None:
            self.upstream.transport.write(data)

    def _open(self, data: bytes) -> None:
        """Connect to the deployment; what arrives until then waits in the transport of the client."""
        self.upstream = Upstream(self)
        self.upstream.expect(self._mark, is_head=self._is_head)
        self.transport.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(self.upstream, data))

    async def _connect(self, upstream: Upstream, data: bytes) -> None:
        host, _, port = self._address.rpartition(":")
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, host, int(port))
        except OSError as error:
            self._refuse(503, f"the deployment at {self._address} does not answer: {error.strerror}")
            return
        self._upstreams[self._address] = upstream
        assert upstream.transport is not None
        upstream.transport.write(data)
        self.transport.resume_reading()

    def _refuse(self, status: int, reason: str) -> None:
        body = json.dumps({"error": reason}).encode()
        head = (
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.upstream = None
        self.transport.write(head.encode() + body)
        self.close()

    def _stop_timer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Router:
    """Connections of one address, and copies on their way."""

    def __init__(self, file: TrafficFile) -> None:
        self.file = file
        self.clients: set[Client] = set()
        self.is_draining = False
        self._copies: set[asyncio.Task[None]] = set()

    def next_deployment(self, named: str) -> str:
        """Return the deployment that a request names, or that whose turn it is."""
        self.file.refresh()
        return named or self.file.turns.deployment()

    def copy(self, name: str, request: bytes) -> None:
        """Send a copy of a request to a deployment; its response is discarded, and its failure ignored."""
        if len(self._copies) < MAX_COPIES and name in self.file.traffic.deployments:
            task = asyncio.get_running_loop().create_task(_send_copy(self.file.traffic.address_of(name), request))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)

    async def drain(self) -> None:
        """Close idle connections, and wait for the open requests."""
        self.is_draining = True
        ends_at = asyncio.get_running_loop().time() + DRAIN_TIME_S
        while self.clients and asyncio.get_running_loop().time() < ends_at:
            for client in [each for each in self.clients if each.is_idle]:
                client.close()
            await asyncio.sleep(0.02)


async def _send_copy(address: str, request: bytes) -> None:
    head, end, body = request.partition(b"\r\n\r\n")
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(COPY_TIME_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(_HOP_BY_HOP.sub(b"", head) + b"\r\nConnection: close" + end + body)
                while await reader.read(1 << 16):
                    pass
            finally:
                writer.close()


async def route(listening: socket.socket, file: TrafficFile, ready: Callable[[], None]) -> None:
    """Accept at `listening` until SIGTERM or SIGINT; then finish the open requests."""
    stopped, loop, router = asyncio.Event(), asyncio.get_running_loop(), Router(file)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: Client(router), sock=listening)
    ready()
    await stopped.wait()
    server.close()
    await router.drain()
