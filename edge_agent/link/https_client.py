"""One HTTPS exchange with the cloud, on the standard library alone: it is part of the resident process, where a megabyte counts.

A request may wait for a minute (a long-poll), so it can be called off from another thread.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgewright.contracts.http_errors import error_of
from edgewright.errors import BadInputError, EdgewrightError, OperationError, StorageFullError, UnreachableError, one_line

MAX_ANSWER_BYTES = 4 << 20
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the cloud said."""

    status: int
    body: bytes


class Exchange:
    """One request and its answer; `cancel` from another thread ends it at once."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise BadInputError(f"the cloud's address must be https://host:port, not {url!r}")
        self._url = url
        self._cancelled = False
        self._prefix = parts.path.rstrip("/")
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, context=context, timeout=CONNECT_TIMEOUT_S
        )

    def run(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 30.0) -> Answer:
        """Return the answer of success; raise what the refusal means.

        Raises:
            UnreachableError: no answer in time, or a cloud that is not available.
            DeniedError: the cloud does not authorise this device.
            NotFoundError, ConflictError, BadInputError: the cloud rejected the request.
            OperationError: the cloud failed.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            self._connection.connect()
            if self._cancelled:
                raise ConnectionAbortedError("called off")
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.sock.settimeout(timeout_s)
            self._connection.request(method, self._prefix + path, body=body, headers=headers)
            response = self._connection.getresponse()
            raw = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as failed:
            raise UnreachableError(f"the cloud must answer at {self._url}, but: {one_line(failed)}") from failed
        finally:
            self._connection.close()
        if len(raw) > MAX_ANSWER_BYTES:
            raise OperationError(f"an answer of {self._url}{path} must be at most {MAX_ANSWER_BYTES} bytes, but it is longer")
        if response.status >= 400:
            raise error_from(response.status, raw, f"{self._url}{path}")
        return Answer(response.status, raw)

    def cancel(self) -> None:
        """End the exchange: a thread that waits in `run` gets `UnreachableError`."""
        self._cancelled = True  # `run` looks at it once the socket is there, in case it is not yet
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def error_from(status: int, body: bytes, url: str) -> EdgewrightError:
    """Return the error of an answer; a full disk of the cloud is not a full disk of the device."""
    error = error_of(status, body, url)
    return OperationError(str(error)) if isinstance(error, StorageFullError) else error
