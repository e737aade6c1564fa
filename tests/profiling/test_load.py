"""The clients of a profile, against a server of the standard library."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgewright.profiling.load import run_load
from edgewright.profiling.load_messages import LoadRequest, LoadResult

Answer = Callable[[int], int]
"""Status of the request with this number; it may sleep first."""
Load = Callable[..., LoadResult]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], Load]]:
    """Start a server with an answer, and return a load on it."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> Load:
        numbers = iter(range(1_000_000))
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    number = next(numbers)
                status = answer(number)
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return lambda **options: run_load(request(tmp_path, server.server_address[1], **options))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def request(folder: Path, port: int, *, rate: float = 100, seconds: float = 1.0, warm_up_s: float = 0.2) -> LoadRequest:
    body = folder / "0.http"
    body.write_bytes(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    return LoadRequest(
        host="127.0.0.1", port=port, requests=(str(body),), rate=rate, seconds=seconds, warm_up_s=warm_up_s, seed=1
    )


def test_every_request_is_answered_and_the_latency_is_that_of_the_server(serve: Callable[[Answer], Load]) -> None:
    def slow(_number: int) -> int:
        time.sleep(0.02)
        return 200

    result = serve(slow)(rate=100)
    assert result.sent == result.answered
    assert 60 <= result.sent <= 140, "about 100 requests in a second: four standard deviations of a Poisson process"
    median_ms = result.percentiles_ms["50"]
    assert median_ms is not None
    assert 20 <= median_ms < 200


def test_a_pause_of_the_server_delays_the_requests_that_arrive_meanwhile(serve: Callable[[Answer], Load]) -> None:
    pause = threading.Lock()

    def pausing(number: int) -> int:
        with pause:
            if number == 60:
                time.sleep(0.5)
        return 200

    result = serve(pausing)(rate=100)
    p90_ms = result.percentiles_ms["90"]
    assert result.answered == result.sent
    assert p90_ms is not None
    assert p90_ms > 200, "a closed loop would have sent one request during the pause, and its 90th percentile would be small"


def test_failures_are_counted_by_status_and_as_the_slowest(serve: Callable[[Answer], Load]) -> None:
    result = serve(lambda number: 503 if number % 5 == 0 else 200)(rate=200)
    assert result.failures == {"503": result.sent - result.answered}
    assert 0.1 < result.failed_share < 0.3
    assert result.percentiles_ms["50"] is not None
    assert result.percentiles_ms["99"] is None


def test_a_server_that_is_not_there_answers_nothing(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused, and no other program gets the port
        result = run_load(request(tmp_path, bound.getsockname()[1], rate=50, seconds=0.5, warm_up_s=0.0))
    assert (result.answered, result.failures) == (0, {"no connection": result.sent})
