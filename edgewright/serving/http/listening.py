"""The listening socket and the TLS files of a server; without the server, so that a supervising process stays small."""

from __future__ import annotations

import os
import socket as sockets
import ssl
from dataclasses import dataclass
from pathlib import Path

from edgewright.errors import BadInputError
from edgewright.worker_process import exit_with_parent

BACKLOG = 256
SOCKET_VARIABLE = "EDGEWRIGHT_LISTEN_FD"
"""Environment variable with the descriptor of an inherited listening socket."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate chain and its private key, in PEM."""

    certificate: Path
    private_key: Path

    @classmethod
    def of(cls, certificate: Path | None, private_key: Path | None) -> TlsFiles | None:
        """Return both files, or None without any.

        Raises:
            BadInputError: only one was given, one cannot be read, or they do not belong together.
        """
        if certificate is None and private_key is None:
            return None
        if certificate is None or private_key is None:
            raise BadInputError("--certificate and --private-key must be given together: add the other one")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, private_key)
        except (OSError, ssl.SSLError) as error:
            text = f"{certificate} and {private_key} must be a certificate and its private key in PEM: {error}"
            raise BadInputError(text) from error
        return cls(certificate, private_key)


def listen(host: str = "127.0.0.1", port: int = 0) -> sockets.socket:
    """Return a listening socket; port 0 picks a free port.

    A supervisor passes its own socket by the variable `SOCKET_VARIABLE`; this process then ends when the supervisor does.

    Raises:
        BadInputError: the port is in use, or the host is not an address of this machine.
    """
    inherited = os.environ.pop(SOCKET_VARIABLE, None)  # not for the processes of a script
    if inherited is not None:
        exit_with_parent(gracefully=True)
        return sockets.socket(fileno=int(inherited))
    listening = sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET, sockets.SOCK_STREAM)
    try:
        listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise BadInputError(f"cannot listen on {host} port {port}: {error.strerror}; choose another port") from error
    return listening
