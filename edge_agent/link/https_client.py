"""One HTTPS exchange with the cloud, on the standard library alone: it is part of the resident process, where a megabyte counts.

A request may wait for a minute (a long-poll), so it can be called off from another thread.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgewright.errors import BadInputError, DeniedError, EdgewrightError, OperationError, UnreachableError, one_line

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
            UnreachableError: nobody answered, or not in time.
            DeniedError: the cloud does not let this device in.
            BadInputError: the cloud did not accept the request.
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
            raise refusal(response.status, raw, f"{self._url}{path}")
        return Answer(response.status, raw)

    def cancel(self) -> None:
        """End the exchange: a thread that waits in `run` gets `UnreachableError`."""
        self._cancelled = True  # `run` looks at it once the socket is there, in case it is not yet
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def refusal(status: int, raw: bytes, where: str) -> EdgewrightError:
    """Return the error that a status of 400 or more means, with the cloud's own line."""
    line = _line_of(raw) or f"{where} answered {status}"
    if status in (401, 403):
        return DeniedError(line)
    if status < 500 and status not in (408, 425, 429):
        return BadInputError(line)
    return OperationError(line)


def _line_of(raw: bytes) -> str:
    """Return the `error` of a refusal (P3); empty when it has none."""
    try:
        told = json.loads(raw)
    except ValueError:
        return ""
    text = told.get("error", "") if isinstance(told, dict) else ""
    return text.replace("\n", " ")[:500] if isinstance(text, str) else ""
