"""Choose a port, and keep to it, for devices remember where their cloud is.

No port means the one of the last run, or the usual one at first; port 0 the one of the last run if it is free, else any.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, ConflictError


def bind(host: str, port: int, memory: Path, option: str) -> socket.socket:
    """Return a socket bound to the port, and remember the port in the file `memory`.

    Raises:
        ConflictError: the port is in use.
        BadInputError: the host is not one of this machine, or the port is not ours to open.
    """
    remembered = _remembered(memory) if port == 0 else port
    try:
        bound = _bind(host, remembered, option)
    except ConflictError:
        if port != 0:
            raise
        bound = _bind(host, 0, option)
    write_atomically(memory, str(bound.getsockname()[1]).encode("ascii"))
    return bound


def choose_port(host: str, port: int, memory: Path, option: str) -> int:
    """Return a free port for a program that opens it itself."""
    with bind(host, port, memory, option) as bound:
        chosen: int = bound.getsockname()[1]
    return chosen


def usual(port: int | None, memory: Path, first: int) -> int:
    """Return `port`, or without one that of the last run, or `first`."""
    if port is not None:
        return port
    return _remembered(memory) or first


def _remembered(memory: Path) -> int:
    try:
        return int(memory.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _bind(host: str, port: int, option: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host, port))
            opened.listen()  # two sockets with SO_REUSEADDR may share a port until one of them listens
        except OSError:
            opened.close()
            raise
    except OSError as failed:
        if failed.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"port {port} of {host} must be free, but another program uses it: end that one, or choose another with {option}"
            ) from failed
        raise BadInputError(f"cannot listen on {host} port {port}: {failed.strerror}; try another --host or {option}") from failed
    return opened
