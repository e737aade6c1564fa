"""What an endpoint is, and how every one of them is answered.

An endpoint says whom it serves, which message it takes and which it gives; the OpenAPI document is made from the same table.
A handler that is a plain function runs in a worker thread, so that a transaction never holds up the event loop.

    identify the caller → check the access → read and decode the body → call the handler → encode what it returns

Every refusal is `{"error": "<one line>"}` with the status of its error (protocol.md P3).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cloud import auth
from cloud.auth import Access, Caller
from cloud.context import Cloud
from cloud.registry.blobs import OutOfOrderError
from edgewright.contracts import wire
from edgewright.contracts.http_errors import body_of, status_of
from edgewright.errors import BadInputError, EdgewrightError

MAX_BODY_BYTES = 8 << 20
MAX_STRANGERS_BODY_BYTES = 64 << 10
_LOG = logging.getLogger("edgewright.cloud")


class TooLargeError(BadInputError):
    """A body over the limit."""

    http_status: ClassVar[int] = 413


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in."""

    cloud: Cloud
    request: Request
    caller: Caller
    now: datetime
    body: Any = None

    def path(self, name: str) -> str:
        """Return a parameter of the path."""
        return str(self.request.path_params[name])

    def text(self, name: str) -> str | None:
        """Return a parameter of the query, None when it is absent or empty."""
        return self.request.query_params.get(name) or None

    def number(self, name: str, default: float) -> float:
        """Return a numeric parameter of the query; raise `BadInputError` when it is no number of 0 or more."""
        text = self.text(name)
        try:
            number = default if text is None else float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < 2**53:
            raise BadInputError(f"the query parameter {name} must be a number from 0, not {text!r}")
        return number

    def whole(self, name: str, default: int) -> int:
        """Return a whole number of the query."""
        return int(self.number(name, default))


Handler = Callable[[Call], Any] | Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    access: Access
    summary: str
    handler: Handler
    takes: Any = None
    """The type of the body; None for none, `bytes` when the handler reads it itself."""
    gives: Any = None
    """The type of the answer; None for an empty one, `bytes` for one that is no JSON."""
    status: int = 200
    query: dict[str, str] = field(default_factory=dict)
    """The parameters of the query, each with its meaning."""


async def answer(endpoint: Endpoint, cloud: Cloud, request: Request) -> Response:
    """Answer a request to an endpoint."""
    try:
        caller = await _identify(cloud, request)
        auth.check(endpoint.access, caller)
        body = await _read_body(endpoint, request)
        call = Call(cloud, request, caller, datetime.now(UTC), body)
        response = _encode(await _run(endpoint.handler, call), endpoint)
    except EdgewrightError as error:
        response = refusal(error, request)
    except ClientDisconnect:
        response = Response(status_code=499)  # nobody reads it; the number is for the count
    cloud.requests[(endpoint.method, endpoint.path, response.status_code)] += 1
    return response


def refusal(error: EdgewrightError, request: Request) -> Response:
    """Return the answer to a request that cannot be served."""
    status = status_of(error)
    body: dict[str, Any] = {**body_of(error)}
    headers = {}
    if request.url.path.startswith("/v2/"):
        body["errors"] = [{"code": _oci_code(error, status), "message": body["error"]}]
        headers["Docker-Distribution-API-Version"] = "registry/2.0"
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="edgewright"' if request.url.path.startswith("/v2/") else "Bearer"
    if isinstance(error, OutOfOrderError):
        headers["Range"] = f"0-{max(error.size - 1, 0)}"
    _LOG.info("refused method=%s path=%s status=%d error=%s", request.method, request.url.path, status, body["error"])
    return Response(wire.encode(body), status, headers, "application/json")


async def read_limited(request: Request, limit_bytes: int) -> bytes:
    """Read a body into memory; raise `TooLargeError` when it is over the limit."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit_bytes:
            raise TooLargeError(f"the body must be at most {limit_bytes} bytes, but it goes on: send less at a time")
    return bytes(body)


async def _identify(cloud: Cloud, request: Request) -> Caller:
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    certificate = chain[0] if chain else None
    authorization = request.headers.get("authorization")
    return await to_thread.run_sync(auth.identify, authorization, certificate, cloud.state.operator_token, cloud.database)


async def _read_body(endpoint: Endpoint, request: Request) -> Any:
    if endpoint.takes is None or endpoint.takes is bytes:
        return None
    limit_bytes = MAX_STRANGERS_BODY_BYTES if endpoint.access is Access.ANYONE else MAX_BODY_BYTES
    raw = await read_limited(request, limit_bytes)
    return wire.decode(raw, endpoint.takes, what="the body")


async def _run(handler: Handler, call: Call) -> Any:
    if inspect.iscoroutinefunction(handler):
        return await handler(call)
    return await to_thread.run_sync(cast(Callable[[Call], Any], handler), call)


def _encode(result: Any, endpoint: Endpoint) -> Response:
    if isinstance(result, Response):
        return result
    if result is None:
        return Response(status_code=204 if endpoint.status == 200 else endpoint.status)
    return Response(wire.encode(result), endpoint.status, media_type="application/json")


def _oci_code(error: EdgewrightError, status: int) -> str:
    by_status = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 405: "UNSUPPORTED", 413: "SIZE_INVALID"}
    code: str = getattr(error, "oci_code", by_status.get(status, "NAME_INVALID" if status == 400 else "UNSUPPORTED"))
    return code
