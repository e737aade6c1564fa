"""Send requests at a rate, whether or not earlier ones were answered, and print the latencies.

    python -m edgewright.profiling.load REQUEST.json

This is an open-loop load: requests arrive at random times (a Poisson process, as in the Server scenario of MLPerf LoadGen,
https://github.com/mlcommons/inference_policies), and latency counts from the time at which a request should have been sent. A
closed loop would send less to a slow server and hide its queue ("coordinated omission", G. Tene). The client is a process of
its own, so its work does not count as the service's. It reads one `LoadRequest` and writes one `LoadResult` as JSON.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import numpy as np
import uvloop

from edgewright.contracts import wire
from edgewright.profiling.load_messages import PERCENTILES, LoadRequest, LoadResult

MAX_CONNECTIONS = 256
ANSWER_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Sent:
    due_s: float
    is_measured: bool


class _Connection(asyncio.Protocol):
    """A connection with at most one open request."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self.sent: _Sent | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes, sent: _Sent) -> None:
        self.sent = sent
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        keeps = self._parser.should_keep_alive()
        sent, self.sent = self.sent, None
        if sent is not None:
            self._load.ended(sent, "" if status == 200 else str(status))
        self._parser = httptools.HttpResponseParser(self)
        if keeps:
            self._load.free(self)
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._load.lost(self)
        if self.sent is not None:
            self._load.ended(self.sent, "no answer")
            self.sent = None

    def abort(self) -> None:
        self._transport.abort()


class _Load:
    def __init__(self, request: LoadRequest, bodies: Sequence[bytes]) -> None:
        self._request = request
        self._bodies = bodies
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._waiting: deque[_Sent] = deque()
        self._next = 0
        self._pending = 0
        self._done = asyncio.Event()
        self._lags_s: list[float] = []
        self._latencies_s: list[float] = []
        self._failures: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> LoadResult:
        began_s = time.perf_counter() + 0.05
        total = 0
        for due_s, is_measured in _arrivals(self._request):
            delay_s = began_s + due_s - time.perf_counter()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            self._arrive(_Sent(began_s + due_s, is_measured))
            total += is_measured
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while self._pending:
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            while self._waiting:
                self.ended(self._waiting.popleft(), "no connection")
        await self._disconnect()
        return self._result(total)

    async def _disconnect(self) -> None:
        """End every connection; open requests count as not answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.abort()
        while self._open:
            await asyncio.sleep(0)

    def _arrive(self, sent: _Sent) -> None:
        self._pending += 1
        if self._idle:
            self._send(self._idle.pop(), sent)
            if sent.is_measured:
                self._lags_s.append(time.perf_counter() - sent.due_s)
            return
        self._waiting.append(sent)
        if len(self._open) + self._connecting < MAX_CONNECTIONS:
            self._connect()

    def _connect(self) -> None:
        self._connecting += 1
        task = asyncio.get_running_loop().create_task(self._open_connection())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_connection(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), self._request.host, self._request.port)
        except OSError:
            self._connecting -= 1
            if self._waiting:
                self.ended(self._waiting.popleft(), "no connection")
            return
        self._connecting -= 1
        self._open.add(connection)
        self.free(connection)

    def _send(self, connection: _Connection, sent: _Sent) -> None:
        connection.send(self._bodies[self._next % len(self._bodies)], sent)
        self._next += 1

    def free(self, connection: _Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and not self._connecting:
            self._connect()

    def ended(self, sent: _Sent, failure: str) -> None:
        self._pending -= 1
        if sent.is_measured:
            if failure:
                self._failures[failure] = self._failures.get(failure, 0) + 1
            else:
                self._latencies_s.append(time.perf_counter() - sent.due_s)
        self._done.set()

    def _result(self, total: int) -> LoadResult:
        answered = len(self._latencies_s)
        slowest = np.full(total - answered, np.inf)
        all_ms = np.sort(np.concatenate([np.array(self._latencies_s) * 1e3, slowest]))
        return LoadResult(
            rate=self._request.rate,
            sent=total,
            answered=answered,
            failures=self._failures,
            percentiles_ms={str(each): _percentile(all_ms, each) for each in PERCENTILES},
            lag_ms=float(np.percentile(self._lags_s, 99) * 1e3) if self._lags_s else 0.0,
        )


def _arrivals(request: LoadRequest) -> Iterator[tuple[float, bool]]:
    """Yield the time of each request from the start, in seconds, and whether it is measured."""
    generator = random.Random(request.seed)  # noqa: S311  no secret
    at_s = 0.0
    while (at_s := at_s + generator.expovariate(request.rate)) < request.warm_up_s + request.seconds:
        yield at_s, at_s >= request.warm_up_s


def _percentile(sorted_ms: np.ndarray[Any, np.dtype[np.float64]], percentile: int) -> float | None:
    """Return a percentile as the smallest latency that this share of the requests does not exceed; None if it is infinite."""
    if not sorted_ms.size:
        return None
    value = float(sorted_ms[min(len(sorted_ms) - 1, int(np.ceil(len(sorted_ms) * percentile / 100)) - 1)])
    return value if np.isfinite(value) else None


def run_load(request: LoadRequest) -> LoadResult:
    """Run a load in this process."""
    bodies = [Path(path).read_bytes() for path in request.requests]

    async def run() -> LoadResult:
        return await _Load(request, bodies).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


if __name__ == "__main__":
    result = run_load(wire.decode(Path(sys.argv[1]).read_bytes(), LoadRequest, what="a load"))
    sys.stdout.buffer.write(wire.encode(result))
