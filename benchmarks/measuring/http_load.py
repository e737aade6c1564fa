"""Send one request over and over on some connections, and print the result.

    http_load.py FILE HOST PORT CONNECTIONS SECONDS

FILE holds the bytes of the request. The client is a process of its own with as little work per answer as possible, so that the
server is what is measured. The result is one JSON object: answers, failures (another status than 200), seconds, and latency in
milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

WARM_UP_S = 1.0


class Connection(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self, request: bytes, load: Load) -> None:
        self.request, self.load = request, load
        self.received = b""
        self.sent_s = 0.0
        self.is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport  # uvloop's transports are no subclasses of asyncio.Transport
        self.send()

    def send(self) -> None:
        self.is_waiting = True
        self.sent_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or len(self.received) < end + 4 + content_length(self.received[:end]):
            return
        now_s = time.perf_counter()
        self.is_waiting = False
        self.load.answered(now_s, now_s - self.sent_s, is_right=self.received.startswith(b"HTTP/1.1 200"))
        closes = b"connection: close" in self.received[:end].lower()
        self.received = b""
        if self.load.is_running and not closes:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.load.is_running:
            self.load.failures += self.is_waiting
            self.load.connect()


class Load:
    """The connections, and their counts after the warm-up; a server may close a connection after an answer."""

    def __init__(self, request: bytes, address: tuple[str, int]) -> None:
        self.request, self.address = request, address
        self.connecting: set[asyncio.Task[Any]] = set()
        self.is_running = True
        self.counts_from_s = time.perf_counter() + WARM_UP_S
        self.latencies_s: list[float] = []
        self.failures = 0

    def connect(self) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.create_connection(lambda: Connection(self.request, self), *self.address))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    def answered(self, now_s: float, latency_s: float, *, is_right: bool) -> None:
        if not is_right:
            self.failures += 1
        elif now_s >= self.counts_from_s:
            self.latencies_s.append(latency_s)


def content_length(head: bytes) -> int:
    """Return the length of the body that follows a head."""
    place = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[place:].split(b"\r\n", 1)[0])


async def main(file: str, host: str, port: str, connections: str, seconds: str) -> None:
    """Run the load and print the result."""
    load = Load(Path(file).read_bytes(), (host, int(port)))
    for _ in range(int(connections)):
        load.connect()
    await asyncio.sleep(WARM_UP_S)
    sys.stdout.write("warm\n")
    sys.stdout.flush()
    started_s = time.perf_counter()
    await asyncio.sleep(float(seconds))
    load.is_running = False
    took_s = time.perf_counter() - started_s
    p50, p99 = np.percentile(np.array(load.latencies_s or [np.nan]) * 1000, [50, 99])
    result = {"answers": len(load.latencies_s), "failures": load.failures, "seconds": took_s, "p50_ms": p50, "p99_ms": p99}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
