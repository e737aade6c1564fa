"""Processor time of one scoring request without a socket: the parts of the server, side by side.

    .venv/bin/python benchmarks/request_cost.py [--requests N] [--profile]

The bytes of a request are given to connections with a transport that only counts. The digits model, the key and the request are
those of benchmarks/serving.py. Each line adds a part to the one before it, and all are measured in turns, so that other load on
the machine meets all of them; the best of seven turns counts.

    model                  onnxruntime's run alone
    decode, model, encode  what a server without any check does (serving_peers/raw_asyncio.py), without HTTP
    parse, answer          our connection, with a route that answers a constant: HTTP and the key
    score, 1 or 16         our connection with all: checks, key, limits, metrics; from one connection, and from 16 at once
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import orjson
import uvloop

from accel.backends.choose import load_session
from benchmarks.serving import body, make_variant
from edgewright.command_line import print_table
from edgewright.contracts.variant import LayerKind
from edgewright.serving.http.application import HttpApp, Route
from edgewright.serving.http.connections.connection import HttpConnection
from edgewright.serving.http.connections.response_bytes import Dates
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.http.messages import Response
from edgewright.serving.variants.app import ScoringApp

TURNS = 7
CONNECTIONS = 16


class Body(msgspec.Struct):
    """The request, as a server without checks reads it."""

    data: list[list[float]]


class CountingTransport(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.last = b""

    def write(self, data: Any) -> None:
        self.count += 1
        self.last = data


def main() -> None:
    """Measure every part and print the table."""
    parser = argparse.ArgumentParser(description="Measure the processor time of the parts of a scoring request.")
    parser.add_argument("--requests", type=int, default=3000, help="per part and turn")
    parser.add_argument("--profile", action="store_true", help="print the functions of 'score, 16' by their own time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(Path(folder), options.requests, is_profiled=options.profile))


async def measure(folder: Path, requests: int, *, is_profiled: bool) -> None:
    """Time each part in turns."""
    variant = make_variant(folder / "bench")
    write_new_keys(folder / "keys.json")
    key = json.loads((folder / "keys.json").read_text())["primary"]
    session = load_session(variant, threads=1)
    app = ScoringApp(session, variant.config, model="bench", version=1, keys=KeyFile(folder / "keys.json"))
    constant = ScoringApp(session, variant.config, model="bench", version=1, keys=KeyFile(folder / "keys.json"))
    constant._routes = {"/score": Route(("POST",), lambda request: Response(200, b"{}"), is_scoring=True)}
    raw = request_bytes(key)
    model = Model(variant.file(LayerKind.GRAPH))
    parts: dict[str, Callable[[], Any]] = {
        "model": lambda: repeated(model.run, requests),
        "decode, model, encode": lambda: repeated(model.answer, requests),
        "parse, answer": lambda: connected(constant, raw, requests, 1),
        "score, 1": lambda: connected(app, raw, requests, 1),
        "score, 16": lambda: connected(app, raw, requests, CONNECTIONS),
    }
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(TURNS):
        for name, run in parts.items():
            before_s = time.process_time()
            await run()
            best[name] = min(best[name], (time.process_time() - before_s) / requests * 1e6)
    rows = [[name, f"{spent:.1f}", f"{spent / best['decode, model, encode']:.2f}"] for name, spent in best.items()]
    print_table(("part", "us per request", "ratio"), rows)
    if is_profiled:
        with cProfile.Profile() as profile:
            await connected(app, raw, requests, CONNECTIONS)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(40)
    app.close()
    constant.close()


class Model:
    """The model without a server."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._decode = msgspec.json.Decoder(Body).decode
        self._body = body()
        self._x = np.asarray(self._decode(self._body).data, dtype=np.float32)

    def run(self) -> None:
        self._session.run(None, {"x": self._x})

    def answer(self) -> None:
        (scores,) = self._session.run(None, {"x": np.asarray(self._decode(self._body).data, dtype=np.float32)})
        orjson.dumps({"result": scores}, option=orjson.OPT_SERIALIZE_NUMPY)


async def repeated(work: Callable[[], None], times: int) -> None:
    """Call a function."""
    for _ in range(times):
        work()


async def connected(app: HttpApp, raw: bytes, requests: int, count: int) -> None:
    """Send requests on some connections at once, and wait for all responses before the next ones."""
    transports = [CountingTransport() for _ in range(count)]
    connections = [HttpConnection(app, set(), Dates()) for _ in transports]
    for connection, transport in zip(connections, transports, strict=True):
        connection.connection_made(transport)
    for sent in range(1, requests // count + 1):
        for connection in connections:
            connection.data_received(raw)
        while any(transport.count < sent for transport in transports):
            await asyncio.sleep(0)
    assert transports[0].last.startswith(b"HTTP/1.1 200 OK"), transports[0].last
    for connection in connections:
        connection.connection_lost(None)


def request_bytes(key: str) -> bytes:
    """Return the request of benchmarks/serving.py."""
    content = body()
    lines = ["POST /score HTTP/1.1", "Host: 127.0.0.1:8000", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, f"Authorization: Bearer {key}", "", ""]).encode() + content


if __name__ == "__main__":
    main()
