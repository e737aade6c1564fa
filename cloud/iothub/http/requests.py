"""Common to all routes: policies, JSON bodies, answers after the commit, and errors with IoT Hub's codes.

A caller sends a shared access signature of one of the policies. Each route needs one right:

    iothubowner          everything
    service              twins, methods, messages, telemetry
    registryRead         reading identities and twins
    registryReadWrite    reading and changing identities, configurations

A device may read and change the identities of its own modules with its own token, as the runtime of IoT Edge does.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cloud.iothub.devices.authentication import Credential
from cloud.iothub.hub import Hub
from cloud.iothub.refusal import RefusalError, bad_argument
from edgewright.contracts.iothub import sas
from edgewright.errors import DeniedError

MAX_BODY_BYTES = 1 << 20
_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")


class Right(enum.Enum):
    """The right that a route needs."""

    REGISTRY_READ = enum.auto()
    REGISTRY_WRITE = enum.auto()
    SERVICE = enum.auto()


RIGHTS: dict[str, frozenset[Right]] = {
    "iothubowner": frozenset(Right),
    "service": frozenset((Right.SERVICE,)),
    "registryRead": frozenset((Right.REGISTRY_READ,)),
    "registryReadWrite": frozenset((Right.REGISTRY_READ, Right.REGISTRY_WRITE)),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: JSON or none."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A request of an authenticated caller."""

    hub: Hub
    request: Request
    raw: bytes

    def name(self) -> str:
        """Return the identity in the path: `device` or `device/module`."""
        parameters = self.request.path_params
        return "/".join(parameters[part] for part in ("device", "module") if part in parameters)

    def json(self) -> Mapping[str, Any]:
        """Return the JSON object in the body; raise `RefusalError` if it is not one."""
        try:
            decoded = json.loads(self.raw or b"{}")
        except ValueError as error:
            raise bad_argument(f"the body must be JSON, but it is not: {error}") from error
        if not isinstance(decoded, dict):
            raise bad_argument("the body must be a JSON object")
        return decoded

    def etag(self) -> str:
        """Return the etag in If-Match; empty without the header."""
        return self.request.headers.get("if-match", "").strip('"')

    def number(self, name: str, default: int, largest: int) -> int:
        """Return a number of the query from 0 to `largest`; raise `RefusalError` if it is not one."""
        text = self.request.query_params.get(name, str(default))
        if not text.isdigit() or int(text) > largest:
            raise bad_argument(f"{name} must be a number from 0 to {largest}, not {text[:40]!r}")
        return int(text)


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Access:
    """The keys of the policies, and the check of a caller's token."""

    hub: Hub
    keys: Mapping[str, str] = field(repr=False)

    def check(self, authorization: str, right: Right, device: str = "") -> None:
        """Raise `RefusalError` unless a token has the right, or is that of `device`."""
        try:
            token = sas.parse(authorization)
            if device and not token.policy:
                self.hub.authenticate(device, Credential(authorization, None, self.hub.hosts))
                return
            host = _without_port(token.resource.partition("/")[0].lower())
            if token.policy not in self.keys or host not in self.hub.hosts:
                raise DeniedError("the token must name a policy and this hub")
            now = datetime.now(UTC).timestamp()
            sas.check(token, resource=token.resource, keys=(self.keys[token.policy],), now=now)
        except DeniedError as error:
            raise RefusalError(401, "IotHubUnauthorizedAccess", str(error)) from error
        if right not in RIGHTS[token.policy]:
            raise RefusalError(
                403, "IotHubUnauthorized", f"the policy {token.policy} does not have the right {right.name.lower()}"
            )


def answering(
    access: Access, right: Right, handler: Handler, *, allows_device: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a handler: it authenticates, handles and answers after the changes are stored.

    With `allows_device`, the device in the path may call it with its own token.
    """

    async def endpoint(request: Request) -> Response:
        try:
            device = str(request.path_params["device"]) if allows_device else ""
            access.check(request.headers.get("authorization", ""), right, device)
            if not _VERSION.fullmatch(request.query_params.get("api-version", "")):
                raise RefusalError(400, "InvalidApiVersion", "the query must have an api-version such as 2021-04-12")
            answer = await handler(Call(access.hub, request, await read_body(request)))
            await access.hub.store.committed()
        except RefusalError as error:
            return refuse(error)
        return respond(answer)

    return endpoint


async def read_body(request: Request) -> bytes:
    """Return the body of a request; raise `RefusalError` if it is over the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RefusalError(413, "RequestEntityTooLarge", f"a body must have at most {MAX_BODY_BYTES} bytes")
    return bytes(body)


def respond(answer: Answer) -> Response:
    """Return the HTTP response of an answer."""
    body = b"" if answer.body is None else json.dumps(answer.body).encode()
    media_type = None if answer.body is None else "application/json; charset=utf-8"
    return Response(body, answer.status, answer.headers, media_type)


def refuse(error: RefusalError) -> Response:
    """Return the HTTP response of a refusal."""
    return respond(Answer({"Message": f"ErrorCode:{error.code};{error}", "ExceptionMessage": str(error)}, error.status))


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name.strip("[]") if colon and port.isdigit() else host
