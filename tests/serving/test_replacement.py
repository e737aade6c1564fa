"""A model in the server's process that hangs or crashes costs its own request; the next one is answered by a new process."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgewright.contracts.variant import LayerKind
from edgewright.errors import BadInputError
from edgewright.serving.supervision.keeper import keep_running
from tests.support.tiny_variants import make_variant

SERVICE = """
import http.server, os, signal, socket, sys
from edgewright.serving.supervision.keeper import keep_running

listening = socket.create_server(("127.0.0.1", 0))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(70)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *arguments):
        pass

def serve(report):
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket = listening
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    report({"pid": os.getpid()})
    server.serve_forever()

keep_running(serve, lambda report: print(listening.getsockname()[1], report["pid"], flush=True))
"""


@contextlib.contextmanager
def running(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


@contextlib.contextmanager
def started() -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    with running("-c", SERVICE) as (process, line):
        port, pid = line.split()
        yield process, f"http://127.0.0.1:{port}", int(pid)


def ask(url: str) -> int:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return int(reply.read())


def test_a_process_that_ends_is_replaced_and_a_signal_ends_both() -> None:
    with started() as (process, url, first):
        assert ask(url) == first
        with pytest.raises(ConnectionError):
            ask(f"{url}/crash")
        second = ask(url)
        assert second not in (first, process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not psutil.pid_exists(second)
        assert process.stderr is not None
        assert process.stderr.read() == "the server process ended with exit code 70; it is replaced\n"


def test_the_server_process_ends_with_its_keeper() -> None:
    with started() as (process, url, child):
        assert ask(url) == child
        server = psutil.Process(child)
        process.kill()
        process.wait(20)
        psutil.wait_procs([server], timeout=20)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_an_error_of_the_first_start_is_raised_here() -> None:
    def serve(_report: object) -> None:
        raise BadInputError("no such model")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(BadInputError, match="no such model"):
        keep_running(serve, lambda _report: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_onnx_service_survives_its_process(tmp_path: Path) -> None:
    graph = make_variant(tmp_path / "fp32").file(LayerKind.GRAPH)
    with running("-m", "edgewright", "serve", str(graph), "--port", "0", "--json") as (keeper, line):
        url = json.loads(line)["url"]
        (first,) = psutil.Process(keeper.pid).children()
        first.kill()
        with urllib.request.urlopen(f"{url}/health/ready", timeout=20) as reply:
            assert reply.status == 200
        (second,) = psutil.Process(keeper.pid).children()
        assert second.pid != first.pid
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(20) == 0
