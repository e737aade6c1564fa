"""Push a manifest to a hub over its service API: to one device, or as an automatic deployment.

    POST /devices/ID/applyConfigurationContent    the manifest of one device
    PUT  /configurations/NAME                     an automatic deployment: target condition and priority

The content of an automatic deployment cannot be changed, only its condition, priority and labels. Source: REST API of IoT Hub,
version 2021-04-12, and "Understand IoT Edge automatic deployments" (learn.microsoft.com).
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3

from edgewright.contracts.iothub import sas
from edgewright.contracts.iothub.connection_strings import ServiceAccess
from edgewright.errors import (
    BadInputError,
    ConflictError,
    DeniedError,
    EdgewrightError,
    NotFoundError,
    OperationError,
    UnreachableError,
    one_line,
)
from edgewright.iotedge.validation import content_of, is_layered

API_VERSION = "2021-04-12"
TIMEOUT_S = 60.0
_TOKEN_S = 600
_BY_STATUS: dict[int, type[EdgewrightError]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An automatic deployment."""

    name: str
    target_condition: str
    priority: int
    labels: dict[str, str] = field(default_factory=dict)


class Hub:
    """The service API of a hub."""

    def __init__(self, access: ServiceAccess, ca_file: Path | None = None) -> None:
        """Use a policy of a hub, which is verified with `ca_file`, or with the system's authorities.

        Raises:
            BadInputError: the file cannot be read, or has no certificate.
        """
        self._access = access
        self._pool = urllib3.PoolManager(ssl_context=tls_context(ca_file), retries=False, timeout=TIMEOUT_S)

    def apply(self, device: str, manifest: Mapping[str, Any]) -> None:
        """Set the modules of one IoT Edge device.

        Raises:
            UnreachableError: the hub does not answer.
            EdgewrightError: the hub refuses the request.
        """
        content = {"modulesContent": content_of(dict(manifest))}
        self._call("POST", f"/devices/{quote(device, safe='')}/applyConfigurationContent", content)

    def deploy(self, deployment: Deployment, manifest: Mapping[str, Any], *, updates: bool = False) -> dict[str, Any]:
        """Create an automatic deployment, or with `updates` change the condition, priority and labels of one; return it.

        Raises:
            ConflictError: it exists, or has another content, or was changed at the same time.
            UnreachableError: the hub does not answer.
            EdgewrightError: the hub refuses the request.
        """
        path = f"/configurations/{quote(deployment.name, safe='')}"
        content = {"modulesContent": content_of(dict(manifest))}
        headers, labels = {}, deployment.labels
        if updates:
            current = self._call("GET", path)
            if (current.get("content") or {}).get("modulesContent") != content["modulesContent"]:
                raise ConflictError(
                    f"the content of deployment {deployment.name} must stay as it is, but the manifest differs: "
                    "push it under a new name with a higher priority"
                )
            labels = labels or current.get("labels") or {}
            headers["If-Match"] = f'"{current["etag"]}"'
        request = {
            "id": deployment.name,
            "schemaVersion": "2.0",
            "content": content,
            "targetCondition": deployment.target_condition,
            "priority": deployment.priority,
            "labels": labels,
            "metrics": {"queries": {}},
        }
        answer: dict[str, Any] = self._call("PUT", path, request, headers)
        return answer

    def has_base_below(self, priority: int) -> bool:
        """Return True if a standard deployment has a lower priority, so that a layer of `priority` has an effect.

        Raises:
            UnreachableError: the hub does not answer.
            EdgewrightError: the hub refuses the request.
        """
        for each in self._call("GET", "/configurations"):
            content = each.get("content") or {}
            if content.get("modulesContent") and not is_layered(content) and each["priority"] < priority:
                return True
        return False

    def _call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        access = self._access
        token = sas.create(without_port(access.host), access.key, int(time.time()) + _TOKEN_S, access.policy)
        url = f"https://{access.host}{path}?api-version={API_VERSION}"
        raw = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": token, "Content-Type": "application/json", **(headers or {})}
        try:
            answer = self._pool.request(method, url, body=raw, headers=sent)
        except (urllib3.exceptions.HTTPError, UnicodeError) as error:
            raise unreachable(access.host, error) from error
        if answer.status >= 400:
            raise refusal(answer.status, answer.data, access.host)
        if not answer.data:
            return None
        try:
            return json.loads(answer.data)
        except ValueError as error:
            raise OperationError(f"{access.host} must answer as an IoT Hub does, but its answer is not JSON") from error


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return the context of a client; raise `BadInputError` if the file of authorities cannot be used."""
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise BadInputError(f"{ca_file} must be a file of certificates in PEM: {one_line(error)}") from error


def without_port(host: str) -> str:
    """Return the name of a host without a port and without the brackets of an IPv6 address."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).strip("[]")


def unreachable(host: str, error: Exception) -> UnreachableError:
    """Return the error for a hub that does not answer, or whose certificate cannot be verified."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return UnreachableError(
            f"the certificate of {host} must be issued by a known authority, but it is not: name its file with --ca"
        )
    return UnreachableError(f"the hub {host} does not answer ({one_line(error)}): check HostName and the network")


def refusal(status: int, raw: bytes, host: str) -> EdgewrightError:
    """Return the error of an answer with an error status; IoT Hub's message has an error code and a text."""
    try:
        document = json.loads(raw)
        message = str(document.get("ExceptionMessage") or document.get("Message") or document.get("message"))
    except (ValueError, AttributeError):
        message = "no reason given"
    kind = _BY_STATUS.get(status, BadInputError if status < 500 and status != 429 else OperationError)
    return kind(f"the hub {host} refuses with HTTP status {status}: {' '.join(message.split())[:300]}{_ADVICE.get(status, '')}")


_ADVICE = {
    401: "; check the key of the connection string",
    409: "; choose another name, or change its condition and priority with --update",
    412: "; run the command again",
    429: "; try again later",
}
