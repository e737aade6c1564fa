"""Limits of a connection before authentication: what a client without a credential can make a server keep (protocol.md P4)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from cloud.connection_limits import LimitedHttpProtocol
from edgewright.demo.processes import wait_until
from edgewright.serving.http import connection_limits
from edgewright.serving.http.connection_limits import MAX_HEADER_BYTES
from tests.support.echo_app import EchoApp
from tests.support.serving_fixtures import serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE = MAX_HEADER_BYTES + (16 << 10)


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the body of the request."""
    body, is_complete = b"", False
    while not is_complete:
        event = await receive()
        body, is_complete = body + event.get("body", b""), not event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def cloud_listener() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(echo, http=LimitedHttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started, what="the server", timeout_s=10)
        yield listening.getsockname()
        server.should_exit = True
        thread.join(20)


@contextlib.contextmanager
def scoring_server() -> Iterator[tuple[str, int]]:
    with serving(EchoApp()) as client:
        yield "127.0.0.1", client.port


@pytest.fixture(scope="module", params=[cloud_listener, scoring_server], ids=["cloud", "scoring server"])
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The address of a server with the limits."""
    with request.param() as address:
        yield address


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "HEADER_TIME_S", 0.3)
    monkeypatch.setattr(connection_limits, "BODY_IDLE_S", 0.3)


def exchange(address: tuple[str, int], *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send the pieces, and return all that the server sends until it closes the connection or is silent for two seconds."""
    with socket.create_connection(address, timeout=2) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (ConnectionResetError, BrokenPipeError):
                break
            time.sleep(pause_s)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except (TimeoutError, ConnectionResetError):
            return received
        if not piece:
            return received
        received += piece


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(GET + b"A: " + b"x" * LARGE + b"\r\n\r\n", id="one header"),
        pytest.param(GET + b"A: " + b"x" * LARGE, id="a header that does not end"),
        pytest.param(GET + b"x" * LARGE, id="a header name that does not end"),
        pytest.param(GET + b"".join(b"A%d: x\r\n" % n for n in range(12_000)) + b"\r\n", id="many headers"),
        pytest.param(GET + b"".join(b"A%d: x\r\n" % n for n in range(12_000)), id="headers that do not end"),
        pytest.param(b"GET /" + b"x" * LARGE + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="the request line"),
        pytest.param(b"\r\n" * LARGE, id="empty lines before a request"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n" + b"A: x\r\n" * 12_000, id="trailers that do not end"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\nA: " + b"x" * 4 * LARGE, id="a trailer that does not end"),
        pytest.param(CHUNKED + b"1;" + b"x" * 4 * LARGE, id="a chunk extension that does not end"),
        pytest.param(GET + b"\r\n" + GET + b"A: " + b"x" * LARGE + b"\r\n\r\n", id="the second request of a connection"),
    ],
)
def test_headers_over_the_limit_are_refused_with_431_and_the_connection_is_closed(
    address: tuple[str, int], request_bytes: bytes
) -> None:
    pieces = [request_bytes[start : start + 8192] for start in range(0, len(request_bytes), 8192)]
    began = time.monotonic()
    head, _, body = exchange(address, *pieces).rpartition(b"\r\n\r\n")
    assert time.monotonic() - began < 2, "closed by the server, not by the time limit of this client"
    assert b"HTTP/1.1 431 Request Header Fields Too Large\r\n" in head
    assert json.loads(body)["error"].startswith("the headers of a request must be at most 65536 bytes")


def test_headers_below_the_limit_and_a_large_body_are_accepted(address: tuple[str, int]) -> None:
    body = b"b" * (4 * MAX_HEADER_BYTES)
    headers = b"A: " + b"x" * (MAX_HEADER_BYTES - 1000) + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    answer = exchange(address, POST + headers + body)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(body)


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade"])
@pytest.mark.parametrize("cut", [0, 1], ids=["body in the same packet", "body in the next packet"])
def test_the_body_after_an_offer_of_http_2_is_read(address: tuple[str, int], name: bytes, cut: int) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAEAAEAA\r\n" + name + b": h2c\r\n"
    headers, body = POST + offer + b"Content-Length: 11\r\n\r\n", b"\nupgrade: b"
    pieces = [headers, body] if cut else [headers + body]
    answer = exchange(address, *pieces, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(body)


def test_many_requests_on_one_connection_each_have_the_limit_for_themselves(address: tuple[str, int]) -> None:
    request = GET + b"A: " + b"x" * (MAX_HEADER_BYTES // 2) + b"\r\n\r\n"
    assert exchange(address, *[request] * 5, pause_s=0.05).count(b"HTTP/1.1 200 OK") == 5


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        pytest.param((GET,), b"408", id="headers that stop"),
        pytest.param((GET, *[b"A: x\r\n"] * 10), b"408", id="one header every tenth of a second"),
        pytest.param((GET + b"\r\n" + GET[:9],), b"408", id="the second request of a connection"),
        pytest.param((POST + b"Content-Length: 9\r\n\r\nabc",), b"408", id="a body that stops"),
        pytest.param((CHUNKED,), b"408", id="a chunked body that does not begin"),
        pytest.param((), b"", id="a silent connection"),
        pytest.param((b"\r\n",), b"", id="an empty line"),
    ],
)
def test_a_request_that_does_not_arrive_in_time_is_refused_with_408_and_the_connection_is_closed(
    address: tuple[str, int], short_limits: None, pieces: tuple[bytes, ...], status: bytes
) -> None:
    began = time.monotonic()
    answer = exchange(address, *pieces, pause_s=0.1)
    assert time.monotonic() - began < 2, "closed by the server, not by the time limit of this client"
    assert answer.rpartition(b"HTTP/1.1 ")[2][:3] == status


def test_a_slow_body_that_keeps_arriving_is_accepted(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "BODY_IDLE_S", 1.0)
    pieces = (POST + b"Content-Length: 15\r\nConnection: close\r\n\r\n", *[b"x"] * 15)
    assert exchange(address, *pieces, pause_s=0.1).endswith(b"x" * 15)


def test_bytes_that_are_no_http_are_refused_with_400_and_one_line(address: tuple[str, int]) -> None:
    answer = exchange(address, b"\x16\x03\x01\x00\xa5\x01\x00\x00")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2]) == {"error": "a request must follow HTTP/1.1, but this one does not"}
