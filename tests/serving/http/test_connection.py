"""The HTTP connection of the scoring server, with h11 and raw sockets: any split of the bytes, pipelining, framing, closing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.demo.processes import wait_until
from edgewright.serving.http import connection_limits
from edgewright.serving.http.application import ServingLimits
from edgewright.serving.http.connections.connection import HttpConnection
from edgewright.serving.http.connections.response_bytes import Dates
from edgewright.serving.http.listening import TlsFiles
from tests.support.authority import make_authority, pem_of
from tests.support.echo_app import LARGE_BYTES, EchoApp
from tests.support.server_certificates import server_certificate
from tests.support.serving_fixtures import Client, serving

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LIMITS = ServingLimits(max_body_bytes=1000, max_held_bytes=10_000, max_connections=40)


@pytest.fixture(scope="module")
def app() -> EchoApp:
    return EchoApp(LIMITS)


@pytest.fixture(scope="module")
def client(app: EchoApp) -> Iterator[Client]:
    with serving(app) as client:
        client.close()  # leaves no open connection
        yield client


@pytest.fixture(scope="module")
def port(client: Client) -> int:
    return client.port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def responses(raw: bytes, methods: list[str]) -> list[tuple[int, dict[str, str], bytes]]:
    """Parse consecutive responses with h11, which checks each against the method of its request."""
    parsed: list[tuple[int, dict[str, str], bytes]] = []
    rest = raw
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(rest)
        status, headers, body = 0, {}, bytearray()
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status, headers = event.status_code, {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                assert isinstance(event, h11.InformationalResponse), event
        parsed.append((status, headers, bytes(body)))
        rest = client.trailing_data[0]
    assert rest == b""
    return parsed


def exchange(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, and return all that the server sends until it closes the connection."""
    with connect(port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return read_to_the_end(connection)


def read_to_the_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(1 << 20):
        received += piece
    return bytes(received)


class RecordedTransport(asyncio.Transport):
    """A transport without a socket, for the connection alone."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.is_closed = b"", False

    def write(self, data: Any) -> None:
        assert not self.is_closed, "nothing is written after the end"
        self.sent += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["GET", "HEAD", "POST"]),
        st.sampled_from(["/", "/later", "/task"]),
        st.binary(max_size=40),
        st.sampled_from(["length", "chunked", "offer"]),
    ),
    min_size=1,
    max_size=5,
)


def request_bytes(method: str, path: str, body: bytes, framing: str) -> bytes:
    if method != "POST":
        return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nHOST: x\r\n".encode()
    if framing == "chunked":
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\nTrailer: x\r\n\r\n"
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n" if framing == "offer" else b""
    return head + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body


@given(REQUESTS, st.lists(st.integers(min_value=0, max_value=1500), max_size=8), st.integers(min_value=0, max_value=3))
@settings(max_examples=150, deadline=None)
def test_pipelined_requests_cut_anywhere_get_their_own_answers_in_their_order(
    requests: list[tuple[str, str, bytes, str]], cuts: list[int], pauses: int
) -> None:
    raw = b"".join(request_bytes(*request) for request in requests)
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    app = EchoApp(LIMITS)

    async def main() -> bytes:
        transport = RecordedTransport()
        connection = HttpConnection(app, set(), Dates())
        connection.connection_made(transport)
        for start, end in itertools.pairwise(ends):
            connection.data_received(raw[start:end])
            for _ in range(pauses):
                await asyncio.sleep(0)
        while len(app.requests) < len(requests) or app.open_count:
            await asyncio.sleep(0)
        assert app.held_bytes == 0
        connection.connection_lost(None)
        return transport.sent

    sent = asyncio.run(main())
    expected = [b"" if method != "POST" else body for method, _, body, _ in requests]
    parsed = responses(sent, [method for method, *_ in requests])
    assert [(status, body) for status, _, body in parsed] == [(200, body) for body in expected]
    assert [headers["x-method"] for _, headers, _ in parsed] == [method for method, *_ in requests]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="both lengths"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", id="both lengths, swapped"),
        pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", id="the same length twice"),
        pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", id="two lengths"),
        pytest.param(HEAD + b"Content-Length: 3, 3\r\n\r\nabc", id="a list of lengths"),
        pytest.param(HEAD + b"Content-Length: +3\r\n\r\nabc", id="a length with a sign"),
        pytest.param(HEAD + b"Content-Length : 3\r\n\r\nabc", id="a space before the colon"),
        pytest.param(HEAD + b"Content-Length:\r\n 3\r\n\r\nabc", id="a folded length"),
        pytest.param(HEAD + b"A: b\r\n c\r\n\r\n", id="a folded header"),
        pytest.param(HEAD + b"A: b\0c\r\n\r\n", id="a NUL in a header"),
        pytest.param(HEAD + b"A: b\rc\r\n\r\n", id="a bare CR"),
        pytest.param(b"POST / HTTP/1.1\nHost: x\n\n", id="bare LF"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="chunked is not the last coding"),
        pytest.param(CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", id="a negative chunk"),
        pytest.param(CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", id="a chunk size with a prefix"),
        pytest.param(CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", id="a chunk longer than its size"),
        pytest.param(CHUNKED + b"3\nabc\n0\n\n", id="chunks with bare LF"),
        pytest.param(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", id="a tunnel"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", id="two hosts"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET /\r\n\r\n", id="HTTP/0.9"),
    ],
)
def test_an_ambiguous_request_is_refused_with_400_and_nothing_after_it_is_read(app: EchoApp, port: int, raw: bytes) -> None:
    before = len(app.requests)
    ((status, headers, body),) = responses(exchange(port, raw + LAST), ["POST"])
    assert (status, headers["connection"]) == (400, "close")
    assert list(json.loads(body)) == ["error"]
    assert len(app.requests) == before


@pytest.mark.parametrize("coding", ["gzip, chunked", "xchunked"])
def test_a_transfer_coding_that_the_server_does_not_know_is_a_501(port: int, coding: str) -> None:
    raw = exchange(port, HEAD + f"Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n".encode() + LAST)
    ((status, _, body),) = responses(raw, ["POST"])
    assert status == 501
    assert json.loads(body)["error"] == f"Transfer-Encoding must be chunked, not {coding!r}: send the body without it"


def test_the_requests_before_an_invalid_one_are_answered_first(port: int) -> None:
    raw = exchange(port, HEAD.replace(b" / ", b" /later ") + b"Content-Length: 2\r\n\r\nab" + b"nonsense\r\n\r\n")
    assert [(status, body[:2]) for status, _, body in responses(raw, ["POST", "POST"])] == [(200, b"ab"), (400, b'{"')]


def test_nothing_follows_the_request_that_closes_the_connection(app: EchoApp, port: int) -> None:
    before = len(app.requests)
    ((status, headers, _),) = responses(exchange(port, LAST + LAST), ["GET"])
    assert (status, headers["connection"]) == (200, "close")
    assert len(app.requests) == before + 1


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_a_connection_of_http_1_0_ends_with_its_response(port: int, connection: bytes) -> None:
    ((status, headers, _),) = responses(exchange(port, b"GET / HTTP/1.0\r\n" + connection + b"\r\n"), ["GET"])
    assert (status, headers["connection"]) == (200, "close")


def test_a_client_that_closes_its_side_gets_its_response(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD.replace(b" / ", b" /task ") + b"Content-Length: 2\r\n\r\nab")
        connection.shutdown(socket.SHUT_WR)
        assert responses(read_to_the_end(connection), ["POST"])[0][2] == b"ab"


@pytest.mark.parametrize(
    ("path", "length", "interim"),
    [
        pytest.param(b"/", 2, b"HTTP/1.1 100 Continue\r\n\r\n", id="a body that is wanted"),
        pytest.param(b"/nowhere", 2, b"HTTP/1.1 404 Not Found\r\n", id="a path without a route"),
        pytest.param(b"/", 1001, b"HTTP/1.1 413 ", id="a body that is too large"),
    ],
)
def test_a_client_that_waits_for_permission_gets_it_or_the_refusal(port: int, path: bytes, length: int, interim: bytes) -> None:
    head = HEAD.replace(b" / ", b" %b " % path) + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % length
    with connect(port) as connection:
        connection.sendall(head)
        first = connection.recv(len(interim))
        assert first == interim
        connection.sendall(b"x" * length)
        rest = read_until(connection, b"\r\n\r\n")
    assert (b"connection: close" in rest) == (interim[9:12] != b"100")


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received and (piece := connection.recv(1 << 16)):
        received += piece
    return received


def test_the_body_of_a_refused_request_is_skipped_and_the_connection_stays(port: int) -> None:
    refused = HEAD.replace(b" / ", b" /nowhere ") + b"Content-Length: 900\r\n\r\n"
    raw = exchange(port, refused, b"x" * 900, LAST)
    assert [status for status, *_ in responses(raw, ["POST", "GET"])] == [404, 200]


def test_a_refused_request_cannot_send_without_end(port: int) -> None:
    refused = CHUNKED.replace(b" / ", b" /nowhere ")
    with connect(port) as connection:
        connection.sendall(refused)
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert [status for status, *_ in responses(read_to_the_end(connection), ["POST"])] == [404]


def test_a_repeated_header_is_one_list(app: EchoApp, port: int) -> None:
    exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\nConnection: close\r\n\r\n")
    assert app.requests[-1].headers["a"] == "1, 2"


@pytest.mark.parametrize(
    ("target", "query"),
    [
        pytest.param(b"/?a=%31", b"a=%31", id="a query stays encoded"),
        pytest.param(b"http://x/?b", b"b", id="a whole URL"),
        pytest.param(b"http://x", b"", id="a URL without a path"),
        pytest.param(b"/%6c%61ter", b"", id="an escaped path"),
        pytest.param(b"/#part", b"", id="a fragment"),
    ],
)
def test_the_target_of_a_request(app: EchoApp, port: int, target: bytes, query: bytes) -> None:
    raw = exchange(port, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
    assert responses(raw, ["GET"])[0][0] == 200
    assert app.requests[-1].query_string == query


def test_a_response_without_a_body_has_no_length(port: int) -> None:
    ((status, headers, body),) = responses(exchange(port, LAST.replace(b" / ", b" /empty ")), ["GET"])
    assert (status, body) == (204, b"")
    assert "content-length" not in headers


def test_a_header_that_would_begin_another_one_is_a_500(port: int) -> None:
    body = b"a\r\nx-injected: 1"
    head = b"POST /headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    ((status, headers, _),) = responses(exchange(port, head + body), ["POST"])
    assert status == 500
    assert "x-injected" not in headers


def test_one_connection_too_many_is_refused_with_503(client: Client) -> None:
    server = client.server
    assert server is not None
    wait_until(lambda: not server.connections, what="the end of earlier connections", timeout_s=20)
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.max_connections):
            stack.enter_context(connect(client.port))
        extra = stack.enter_context(connect(client.port))
        ((status, headers, _),) = responses(read_to_the_end(extra), ["GET"])
        assert (status, headers["retry-after"]) == (503, "1")
    wait_until(lambda: not server.connections, what="free places", timeout_s=20)
    assert responses(exchange(client.port, LAST), ["GET"])[0][0] == 200


def test_a_client_that_does_not_read_ends_only_its_own_connection(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "CLIENT_READS_S", 0.3)
    server = client.server
    assert server is not None
    with connect(client.port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        assert responses(exchange(client.port, LAST), ["GET"])[0][0] == 200
        wait_until(lambda: not server.connections, what="the end of the connection", timeout_s=20)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 20):
                received += len(piece)
        assert received < 3 * LARGE_BYTES


def test_a_large_response_arrives_whole_at_a_slow_reader(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "CLIENT_READS_S", 2.0)
    with connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + LAST)
        received = bytearray()
        for _ in range(28):  # longer than the limit, in which something is read
            received += connection.recv(1 << 19)
            time.sleep(0.1)
        received += read_to_the_end(connection)
    assert [len(body) for _, _, body in responses(bytes(received), ["GET"] * 3)] == [LARGE_BYTES, LARGE_BYTES, 0]


def test_a_client_that_goes_away_leaves_no_memory_held(app: EchoApp, port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 900\r\n\r\n" + b"x" * 500)
        wait_until(lambda: app.held_bytes == 500, what="the bytes to arrive", timeout_s=10)
    wait_until(lambda: app.held_bytes == 0, what="the bytes to be released", timeout_s=10)


def test_the_same_connection_over_tls(app: EchoApp, tmp_path: Path) -> None:
    authority, key = make_authority()
    files = server_certificate(tmp_path, authority, key, "127.0.0.1")
    context = ssl.create_default_context(cadata=pem_of(authority))
    with (
        serving(app, tls=TlsFiles(*files)) as client,
        context.wrap_socket(connect(client.port), server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\nab")
        assert read_until(connection, b"ab").startswith(b"HTTP/1.1 200 OK\r\n")
        connection.sendall(b"nonsense\r\n\r\n")
        assert responses(read_to_the_end(connection), ["POST"])[0][0] == 400
