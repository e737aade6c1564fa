"""Requests of a client: encode a body, send it, decode the answer. Each group of methods of `CloudClient` extends it."""

from __future__ import annotations

from typing import TypeVar

from edgewright.contracts import wire
from edgewright.contracts.connection.client_context import ClientContext
from edgewright.errors import OperationError
from edgewright.sdk.connection import TIMEOUT_S, Connection

T = TypeVar("T")

_JSON = {"Content-Type": "application/json"}


class Calls:
    """A connection to one cloud, and the requests that all methods are made of."""

    def __init__(self, context: ClientContext) -> None:
        self.context = context
        self._connection = Connection(context)

    def _get(self, path: str, kind: type[T], /, *, timeout_s: float = TIMEOUT_S, **query: str | int | None) -> T:
        response = self._connection.request("GET", path, query=query, timeout_s=timeout_s)
        return wire.decode(response.body, kind, what=f"the cloud's answer to GET {path}", error=OperationError)

    def _send(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        raw = None if body is None else wire.encode(body)
        response = self._connection.request(method, path, body=raw, headers=_JSON if raw is not None else None)
        return wire.decode(response.body, kind, what=f"the cloud's answer to {method} {path}", error=OperationError)
