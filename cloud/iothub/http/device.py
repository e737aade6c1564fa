"""The routes that a device itself uses: the hand-over of file uploads to a blob container.

A device asks for the place of a blob and gets the container's own shared access signature; it uploads to the storage, then
reports the result, which becomes an event. Source: "Upload files with IoT Hub" (learn.microsoft.com).
"""

from __future__ import annotations

import json
import ssl
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloud.iothub.devices.authentication import Credential
from cloud.iothub.http.requests import Answer, read_body, refuse, respond
from cloud.iothub.hub import Hub
from cloud.iothub.refusal import RefusalError, bad_argument
from edgewright.errors import BadInputError, DeniedError

_MAX_OPEN_UPLOADS = 10


@dataclass(frozen=True, slots=True)
class Container:
    """A blob container with a shared access signature that allows to create blobs."""

    host: str
    name: str
    signature: str = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> Container:
        """Return the container of a URL such as `https://account.blob.core.windows.net/uploads?sv=…&sig=…`.

        Raises:
            BadInputError: the URL has no container or no signature. The message does not contain the URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.strip("/") or "sig=" not in parts.query:
            raise BadInputError("the upload container must be an https:// URL of a container with its shared access signature")
        return cls(parts.netloc, parts.path.strip("/"), f"?{parts.query}")


@dataclass(slots=True)
class Uploads:
    """The uploads that devices have started."""

    hub: Hub
    container: Container | None
    _open: dict[str, dict[str, str]] = field(default_factory=dict)

    def begin(self, device: str, blob_name: str) -> dict[str, str]:
        """Return the place of a blob; raise `RefusalError` without a container or with too many open uploads."""
        if self.container is None:
            message = "the hub must have a container for uploads, but it has none: start it with --upload-container"
            raise RefusalError(400, "InvalidStorageEndpoint", message)
        uploads = self._open.setdefault(device, {})
        if len(uploads) >= _MAX_OPEN_UPLOADS:
            raise RefusalError(
                403, "TotalUploadsExceeded", f"{device} must have at most {_MAX_OPEN_UPLOADS} uploads at the same time"
            )
        if not blob_name or len(blob_name) > 1024:
            raise bad_argument("blobName must be a text of 1 to 1024 characters")
        correlation, blob = str(uuid.uuid4()), f"{device}/{blob_name}"
        uploads[correlation] = blob
        return {
            "correlationId": correlation,
            "hostName": self.container.host,
            "containerName": self.container.name,
            "blobName": blob,
            "sasToken": self.container.signature,
        }

    def finish(self, device: str, correlation: str, *, is_success: bool, status: str) -> None:
        """End an upload and store it as an event of the device; raise `RefusalError` if it was not started."""
        blob = self._open.get(device, {}).pop(correlation, None)
        if blob is None or self.container is None:
            raise bad_argument("correlationId must be that of an upload of this device that was started")
        uri = f"https://{self.container.host}/{self.container.name}/{quote(blob)}"
        body = {"deviceId": device, "blobName": blob, "blobUri": uri, "isSuccess": is_success, "statusDescription": status}
        self.hub.telemetry(device, {"iothub-message-source": "fileUpload"}, json.dumps(body).encode())


def routes(uploads: Uploads) -> list[Route]:
    """Return the routes."""
    return [
        Route("/devices/{device}/files", _endpoint(uploads, _begin), methods=["POST"]),
        Route("/devices/{device}/files/notifications", _endpoint(uploads, _finish), methods=["POST"]),
    ]


Step = Callable[[Uploads, str, dict[str, object]], Answer]


def _begin(uploads: Uploads, device: str, request: dict[str, object]) -> Answer:
    return Answer(uploads.begin(device, str(request.get("blobName") or "")))


def _finish(uploads: Uploads, device: str, request: dict[str, object]) -> Answer:
    status = str(request.get("statusDescription") or "")
    uploads.finish(device, str(request.get("correlationId")), is_success=request.get("isSuccess") is True, status=status)
    return Answer(status=204)


def _endpoint(uploads: Uploads, step: Step) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            device = request.path_params["device"]
            _authenticate(uploads.hub, device, request)
            decoded = json.loads(await read_body(request) or b"{}")
            if not isinstance(decoded, dict):
                raise bad_argument("the body must be a JSON object")
            answer = step(uploads, device, decoded)
            await uploads.hub.store.committed()
        except RefusalError as error:
            return refuse(error)
        except ValueError as error:
            return refuse(bad_argument(f"the body must be JSON, but it is not: {error}"))
        return respond(answer)

    return endpoint


def _authenticate(hub: Hub, device: str, request: Request) -> None:
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain") or []
    certificate = ssl.PEM_cert_to_DER_cert(chain[0]) if chain else None
    try:
        hub.authenticate(device, Credential(request.headers.get("authorization", ""), certificate, hub.hosts))
    except DeniedError as error:
        raise RefusalError(401, "IotHubUnauthorizedAccess", str(error)) from error
