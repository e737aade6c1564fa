"""The steps of every gRPC call: check the key, hold the message, decode it, answer; errors become status codes.

The codes are those that gRPC's documentation maps to HTTP's statuses
(https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from edgewright.contracts.connection.http_errors import body_of, status_of
from edgewright.errors import BadInputError, EdgewrightError
from edgewright.serving.http.application import HttpApp

_log = logging.getLogger(__name__)

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_DEFECT = "the server failed on this request: its log has the reason"


class Method(NamedTuple):
    """One call of a service."""

    request: Any
    """Message class of the request."""
    handler: Callable[[Any], Awaitable[Any]]
    is_scoring: bool = False
    """True if a failure counts in the statistics."""
    is_public: bool = False
    """True if no key is needed, as for probes."""


def code_of(error: EdgewrightError) -> grpc.StatusCode:
    """Return the status code of an error."""
    status = status_of(error)
    return _CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL)


def unary(app: HttpApp, method: Method) -> grpc.RpcMethodHandler:
    """Return the handler of a call with one request and one response."""

    async def answer(raw: bytes, context: grpc.aio.ServicerContext[bytes, Any]) -> Any:
        try:
            return await _answered(app, method, raw, context)
        except EdgewrightError as error:
            code, text = code_of(error), body_of(error)["error"]
        except Exception:  # noqa: BLE001 - a defect
            _log.exception("a gRPC call failed")
            code, text = grpc.StatusCode.INTERNAL, _DEFECT
        return await context.abort(code, text)

    return grpc.unary_unary_rpc_method_handler(answer, response_serializer=_serialized)


def streamed(app: HttpApp, method: Method, failed: Callable[[str], Any]) -> grpc.RpcMethodHandler:
    """Return the handler of a stream with one response per request; `failed` makes the response to one that failed."""

    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, Any]) -> AsyncIterator[Any]:
        async for raw in requests:
            try:
                response = await _answered(app, method, raw, context)
            except EdgewrightError as error:
                if code_of(error) == grpc.StatusCode.UNAUTHENTICATED:
                    await context.abort(grpc.StatusCode.UNAUTHENTICATED, body_of(error)["error"])
                response = failed(body_of(error)["error"])
            except Exception:  # noqa: BLE001 - a defect
                _log.exception("a gRPC call failed")
                response = failed(_DEFECT)
            yield response

    return grpc.stream_stream_rpc_method_handler(answer, response_serializer=_serialized)


async def _answered(app: HttpApp, method: Method, raw: bytes, context: grpc.aio.ServicerContext[bytes, Any]) -> Any:
    if not method.is_public:
        app.authorize(_authorization(context))
    try:
        with app.holding(len(raw)):
            return await method.handler(_decoded(method.request, raw))
    except EdgewrightError as error:
        if method.is_scoring:
            app.count_failure(error)
        raise
    except Exception:
        if method.is_scoring:
            app.statistics.failed()
        raise


def _decoded(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise BadInputError(f"the message must be a {kind.DESCRIPTOR.name}, but it cannot be decoded") from error


def _authorization(context: grpc.aio.ServicerContext[bytes, Any]) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def _serialized(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized
