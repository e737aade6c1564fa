"""Choose a port and keep it across restarts, because devices store the address of their cloud.

Without a port, the port of the last run or a default is used. Port 0 is the port of the last run if it is free, else any.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, ConflictError


def bind(host: str, port: int, port_file: Path, option: str) -> socket.socket:
    """Return a socket bound to the port, and store the port in `port_file`.

    Raises:
        ConflictError: the port is in use.
        BadInputError: the host is not an address of this machine, or the port needs other permissions.
    """
    preferred = _last_port(port_file) if port == 0 else port
    try:
        bound = _bind(host, preferred, option)
    except ConflictError:
        if port != 0:
            raise
        bound = _bind(host, 0, option)
    write_atomically(port_file, str(bound.getsockname()[1]).encode("ascii"))
    return bound


def choose_port(host: str, port: int, port_file: Path, option: str) -> int:
    """Return a free port for a program that binds it."""
    with bind(host, port, port_file, option) as bound:
        free_port: int = bound.getsockname()[1]
    return free_port


def default_port(port: int | None, port_file: Path, default: int) -> int:
    """Return `port`; without one, return the port of the last run, or `default`."""
    if port is not None:
        return port
    return _last_port(port_file) or default


def _last_port(port_file: Path) -> int:
    try:
        return int(port_file.read_text("ascii"))
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
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"port {port} of {host} must be free, but another program uses it: stop it, or choose another port with {option}"
            ) from error
        raise BadInputError(f"cannot listen on {host} port {port}: {error.strerror}; try another --host or {option}") from error
    return opened
