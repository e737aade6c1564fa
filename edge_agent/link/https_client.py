"""HTTPS request to the cloud that another thread can cancel, because a long-poll may wait for a minute.

It uses only the standard library, because it is part of the resident process, whose memory is limited.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgewright.contracts.connection.http_errors import error_of
from edgewright.errors import BadInputError, EdgewrightError, OperationError, StorageFullError, UnreachableError, one_line

MAX_RESPONSE_BYTES = 4 << 20
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Response:
    """Response of the cloud to a successful request."""

    status: int
    body: bytes


class HttpsRequest:
    """One request and its response, which another thread can cancel."""

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

    def send(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 30.0) -> Response:
        """Send the request and return the response.

        Raises:
            UnreachableError: no response in time, or the cloud is unavailable.
            DeniedError: the cloud does not authorise this device.
            NotFoundError, ConflictError, BadInputError: the cloud rejected the request.
            OperationError: the cloud failed.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            self._connection.connect()
            if self._cancelled:
                raise ConnectionAbortedError("cancelled")
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.sock.settimeout(timeout_s)
            self._connection.request(method, self._prefix + path, body=body, headers=headers)
            response = self._connection.getresponse()
            raw = response.read(MAX_RESPONSE_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"cannot connect to the cloud at {self._url}: {one_line(error)}") from error
        finally:
            self._connection.close()
        if len(raw) > MAX_RESPONSE_BYTES:
            raise OperationError(f"a response from {self._url}{path} must have at most {MAX_RESPONSE_BYTES} bytes, not more")
        if response.status >= 400:
            raise error_from(response.status, raw, f"{self._url}{path}")
        return Response(response.status, raw)

    def cancel(self) -> None:
        """Cancel the request; the thread in `send` gets `UnreachableError`."""
        self._cancelled = True  # for `send`, which may not have opened the socket yet
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def error_from(status: int, body: bytes, url: str) -> EdgewrightError:
    """Return the error of a failed response; a full disk of the cloud must not count as a full disk of the device."""
    error = error_of(status, body, url)
    return OperationError(str(error)) if isinstance(error, StorageFullError) else error
