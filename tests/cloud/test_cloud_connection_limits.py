"""The limits of connections in a real cloud: a caller without a credential cannot fill its memory (protocol.md P4)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from pathlib import Path

import psutil

from edgewright.serving.http.connection_limits import MAX_HEADER_BYTES
from tests.support.running_cloud import RunningCloud, ending, launch

MIB = 1 << 20


def connect(cloud: RunningCloud) -> ssl.SSLSocket:
    host, port = cloud.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=str(cloud.ca))
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=10), server_hostname=host)


def test_p4_a_flood_of_headers_gets_431_and_takes_no_memory(cloud: RunningCloud) -> None:
    process = psutil.Process(cloud.process.pid)
    before = process.memory_info().rss
    with connect(cloud) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: ")
        sent_bytes = 0
        with contextlib.suppress(OSError):  # the cloud ends the connection
            while sent_bytes < 64 * MIB:
                sent_bytes += connection.send(b"x" * 65536)
                assert process.memory_info().rss < before + 16 * MIB
    assert sent_bytes < 64 * MIB
    assert cloud.anonymous().get("/healthz").status == 200


def test_more_connections_than_the_soft_limit_of_open_files_do_not_stop_the_cloud(tmp_path: Path) -> None:
    state = tmp_path / "state"
    up = f"from edgewright.cli import main; main(['cloud', 'up', '--json', '--no-broker', '--port', '0', '--state', '{state}'])"
    command = ["sh", "-c", 'ulimit -Sn 128; exec "$0" -c "$1"', sys.executable, up]
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(ending(launch(command, state)))
        host, port = cloud.url.removeprefix("https://").split(":")
        for _ in range(200):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        assert cloud.anonymous().get("/healthz").status == 200


def test_p4_headers_over_the_limit_get_the_refusal_of_the_protocol(cloud: RunningCloud) -> None:
    answer = cloud.anonymous().get("/healthz", headers={"A": "x" * MAX_HEADER_BYTES})
    assert answer.status == 431
    assert answer.error == "the headers of a request must be at most 65536 bytes, but they are longer: send fewer of them"
