"""The client of a hub's service API: for the commands of this machine, and for a cloud whose devices use a hub."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

import urllib3

from cloud.iothub.state import HubAddress, read_address
from edgewright.contracts.iothub import sas
from edgewright.contracts.iothub.connection_strings import ServiceAccess
from edgewright.errors import (
    BadInputError,
    ConflictError,
    EdgewrightError,
    NotFoundError,
    OperationError,
    UnreachableError,
    one_line,
)

API_VERSION = "2021-04-12"
_TOKEN_S = 600
_BY_STATUS: dict[int, type[EdgewrightError]] = {404: NotFoundError, 409: ConflictError, 412: ConflictError}


@dataclass(frozen=True, slots=True)
class HubClient:
    """The service API of one running hub, with the rights of its owner."""

    address: HubAddress
    pool: urllib3.PoolManager

    @classmethod
    def connect(cls, state: Path) -> Self:
        """Return the client of the hub of a state directory; raise `NotFoundError` if it has not been started."""
        address = read_address(state.expanduser())
        context = ssl.create_default_context(cafile=str(address.ca_file))
        return cls(address, urllib3.PoolManager(ssl_context=context, retries=False, timeout=330))

    @classmethod
    def of(cls, access: ServiceAccess, ca_file: Path | None) -> Self:
        """Return the client of any hub, with the rights of a policy.

        Raises:
            BadInputError: the file of authorities cannot be used.
        """
        host, colon, port = access.host.rpartition(":")
        has_port = bool(colon) and port.isdigit()
        host = host if has_port else access.host
        address = HubAddress(host, 8883, host, int(port) if has_port else 443, ca_file, access.key, access.policy)
        try:
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            raise BadInputError(f"{ca_file} must be a file of certificates in PEM: {one_line(error)}") from error
        return cls(address, urllib3.PoolManager(ssl_context=context, retries=False, timeout=60))

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Any:
        """Return the JSON of an answer; `body` is JSON, or bytes as they are.

        Raises:
            UnreachableError: the hub does not run.
            EdgewrightError: the hub refuses the request.
        """
        answer = self._send(method, path, body, headers or {}, query or {})
        return json.loads(answer.data) if answer.data else None

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return all rows of a query.

        Raises:
            UnreachableError: the hub does not run.
            EdgewrightError: the hub refuses the request.
        """
        rows: list[dict[str, Any]] = []
        headers = {"Content-Type": "application/json"}
        while True:
            answer = self._send("POST", "/devices/query", {"query": text}, headers, {})
            rows += json.loads(answer.data)
            following = answer.headers.get("x-ms-continuation")
            if not following:
                return rows
            headers["x-ms-continuation"] = following

    def _send(
        self, method: str, path: str, body: object, headers: Mapping[str, str], query: Mapping[str, object]
    ) -> urllib3.BaseHTTPResponse:
        address = self.address
        expires_at = int(time.time()) + _TOKEN_S
        token = sas.create(address.hostname, address.key, expires_at, address.policy)
        host = f"[{address.https_host}]" if ":" in address.https_host else address.https_host
        url = f"https://{host}:{address.https_port}{quote(path)}?{urlencode({'api-version': API_VERSION, **query})}"
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            answer = self.pool.request(method, url, body=raw, headers={"Authorization": token, **headers})
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(
                f"the hub must run, but {host}:{address.https_port} does not answer ({one_line(error)}): "
                "run 'edgewright iothub up', or check HostName"
            ) from error
        if answer.status >= 400:
            raise _error(answer.status, answer.data)
        return answer

    def connection_string(self, device: Mapping[str, Any]) -> str:
        """Return the connection string of a device or module from the JSON of the service API."""
        module = f";ModuleId={device['moduleId']}" if "moduleId" in device else ""
        key = device["authentication"]["symmetricKey"]["primaryKey"]
        secret = f"SharedAccessKey={key}" if key else "x509=true"
        return f"HostName={self.address.hostname};DeviceId={device['deviceId']}{module};{secret}"

    def service_connection_string(self) -> str:
        """Return the connection string of the hub's owner, for service libraries."""
        address = self.address
        host = address.hostname if address.https_port == 443 else f"{address.hostname}:{address.https_port}"
        return f"HostName={host};SharedAccessKeyName={address.policy};SharedAccessKey={address.key}"


def path_of(name: str, root: str = "devices") -> str:
    """Return the path of `device` or `device/module` below `/devices` or `/twins`."""
    device, _, module = name.partition("/")
    return f"/{root}/{device}/modules/{module}" if module else f"/{root}/{device}"


def _error(status: int, raw: bytes) -> EdgewrightError:
    try:
        message = str(json.loads(raw)["ExceptionMessage"])
    except (ValueError, KeyError, TypeError):
        message = f"the hub answered with HTTP status {status}"
    kind = _BY_STATUS.get(status, BadInputError if status < 500 else OperationError)
    return kind(message)
