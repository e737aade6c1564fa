"""A scoring server on a free loopback port, and an independent HTTP client."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import urllib3

from edgewright.serving.http.application import HttpApp
from edgewright.serving.http.server import Companion, ScoringServer, TlsFiles, listen, make_server


@dataclass(frozen=True)
class Reply:
    """A response."""

    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A plain HTTP client."""

    def __init__(self, port: int, server: ScoringServer | None = None) -> None:
        self.port = port
        self.server = server
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=32, timeout=20, retries=False)

    def get(self, path: str) -> Reply:
        return self.send("GET", path)

    def post(self, path: str, body: Any, media_type: str = "application/json", **headers: str) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("POST", path, raw, {"content-type": media_type, **extra})

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        response = self._pool.request(method, path, body=body, headers=headers)
        return Reply(response.status, response.data, response.headers)

    def close(self) -> None:
        self._pool.close()


@contextlib.contextmanager
def serving(app: HttpApp, companion: Companion | None = None, tls: TlsFiles | None = None) -> Iterator[Client]:
    """Serve `app` until the block ends."""
    socket = listen()
    port = socket.getsockname()[1]
    server = make_server(app, companion=companion, tls=tls)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    client = Client(port, server)
    try:
        if tls is None:
            client.get("/healthz")
        yield client
    finally:
        client.close()
        server.should_exit = True
        thread.join(timeout=20)
        app.close()
        assert not thread.is_alive()
