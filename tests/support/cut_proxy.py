"""A TCP proxy that counts bytes, and cuts or holds its connections after a number of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class CutProxy:
    """A proxy in front of one address; the directions are `up` (client to server) and `down`.

    Attributes:
        port: where clients connect, on 127.0.0.1.
        passed: bytes that went through, by direction.
        cut_at: number of bytes of a direction at which all connections are cut, once.
        hold_at: number of bytes of a direction after which no more are passed on.
        holding: set when `hold_at` was reached.
    """

    target: tuple[str, int]
    listener: socket.socket
    passed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    cut_at: dict[str, int] = field(default_factory=dict)
    hold_at: dict[str, int] = field(default_factory=dict)
    holding: threading.Event = field(default_factory=threading.Event)
    connections: list[socket.socket] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                self.connections += [client, server]
                for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                    threading.Thread(target=self.pump, args=(source, sink, direction), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        """Pass bytes on until one side ends."""
        with suppress(OSError):
            while received := source.recv(65536):
                with self.lock:
                    if self.passed[direction] >= self.hold_at.get(direction, 1 << 60):
                        self.holding.set()
                        return
                    sink.sendall(received)
                    self.passed[direction] += len(received)
                    if self.passed[direction] >= self.cut_at.get(direction, 1 << 60):
                        del self.cut_at[direction]
                        self.cut()
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End all connections at once."""
        for each in self.connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.connections.clear()


@contextmanager
def cut_proxy(host: str, port: int) -> Iterator[CutProxy]:
    """Run a proxy in front of `host`:`port`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CutProxy((host, port), listener)
        threading.Thread(target=proxy.serve, daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        proxy.cut()
