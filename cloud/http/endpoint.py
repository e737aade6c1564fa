"""Endpoints: the description of one method of one path, and the steps that answer a request.

    authenticate the caller → check the access → read and decode the body → call the handler → encode the result

The OpenAPI document is generated from the same descriptions. A handler that is a plain function runs in a worker thread, so a
transaction never blocks the event loop. Every refusal is `{"error": "<one line>"}` with the status of its error (protocol.md P3).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, ClassVar, cast

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cloud import auth
from cloud.auth import Access, Caller
from cloud.context import Cloud
from cloud.registry.blobs import OutOfOrderError
from edgewright.contracts import wire
from edgewright.contracts.connection.http_errors import body_of, status_of
from edgewright.errors import BadInputError, EdgewrightError, NotFoundError

MAX_BODY_BYTES = 8 << 20
MAX_ANONYMOUS_BODY_BYTES = 64 << 10
MAX_WAIT_S = 60.0
"""Maximum time of a long-poll."""
_LOG = logging.getLogger("edgewright.cloud")


class TooLargeError(BadInputError):
    """A body over the limit."""

    http_status: ClassVar[int] = 413


@dataclass(frozen=True, slots=True)
class Call:
    """One authorised request."""

    cloud: Cloud
    request: Request
    caller: Caller
    now: datetime
    body: Any = None

    def path(self, name: str) -> str:
        """Return a path parameter."""
        return str(self.request.path_params[name])

    def path_number(self, name: str, hint: str = "") -> int:
        """Return the number of a rollout or a job in the path; `hint` says where the user finds it.

        Raises:
            NotFoundError: it is not a number.
        """
        text = self.path(name)
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise NotFoundError(f"a {name} must be given by its number, not {text[:64]!r}{hint}")
        return int(text)

    def text(self, name: str) -> str | None:
        """Return a query parameter, or None if it is absent or empty."""
        return self.request.query_params.get(name) or None

    def number(self, name: str, default: float) -> float:
        """Return a numeric query parameter; raise `BadInputError` unless it is 0 or more."""
        text = self.text(name)
        try:
            number = default if text is None else float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < 2**53:
            raise BadInputError(f"the query parameter {name} must be a number of 0 or more, not {text!r}")
        return number

    def whole(self, name: str, default: int) -> int:
        """Return a query parameter as an integer."""
        return int(self.number(name, default))

    def wait_s(self) -> float:
        """Return the query parameter `wait_s`; raise `BadInputError` if it is over `MAX_WAIT_S`."""
        wait_s = self.number("wait_s", 0)
        if wait_s > MAX_WAIT_S:
            raise BadInputError(f"wait_s must be at most {MAX_WAIT_S:g}, not {wait_s:g}: repeat the request instead")
        return wait_s


Handler = Callable[[Call], Any] | Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    access: Access
    summary: str
    handler: Handler
    request_type: Any = None
    """Type of the request body: None without a body, `bytes` if the handler reads it."""
    response_type: Any = None
    """Type of the response body: None without a body, `bytes` if the handler encodes it."""
    media_types: tuple[str, ...] = ("application/octet-stream",)
    """Media types of a response of the type `bytes`."""
    status: int = 200
    other_statuses: tuple[int, ...] = ()
    """Statuses of success besides `status`, and of errors that only this endpoint answers with."""
    query: dict[str, str] = field(default_factory=dict)
    """Query parameters, each with its description."""
    numbers: tuple[str, ...] = ()
    """Query parameters that are numbers of 0 or more."""


async def answer(endpoint: Endpoint, cloud: Cloud, request: Request) -> Response:
    """Return the response to a request."""
    try:
        caller = await _identify(cloud, request)
        auth.check(endpoint.access, caller)
        body = await _read_body(endpoint, request)
        call = Call(cloud, request, caller, datetime.now(UTC), body)
        response = _encode(await _run(endpoint.handler, call), endpoint)
    except EdgewrightError as error:
        response = refusal(error, request)
    except ClientDisconnect:
        response = Response(status_code=499)  # not received by the client; counted in the metrics
    cloud.requests[(endpoint.method, endpoint.path, response.status_code)] += 1
    cloud.last_used_s = monotonic()
    return response


def refusal(error: EdgewrightError, request: Request) -> Response:
    """Return the response for an error."""
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
    """Read a body into memory; raise `TooLargeError` if it exceeds the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise TooLargeError(f"the body must be at most {limit_bytes} bytes, but it is longer: split the request")
    return bytes(body)


async def _identify(cloud: Cloud, request: Request) -> Caller:
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    certificate = chain[0] if chain else None
    authorization = request.headers.get("authorization")
    return await to_thread.run_sync(auth.identify, authorization, certificate, cloud.state.operator_token, cloud.database)


async def _read_body(endpoint: Endpoint, request: Request) -> Any:
    if endpoint.request_type is None or endpoint.request_type is bytes:
        return None
    limit_bytes = MAX_ANONYMOUS_BODY_BYTES if endpoint.access is Access.ANYONE else MAX_BODY_BYTES
    raw = await read_limited(request, limit_bytes)
    return wire.decode(raw, endpoint.request_type, what="the body")


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
