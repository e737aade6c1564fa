"""The identity of a module of Azure IoT Edge: its runtime sets variables, and signs with the module's key over its workload API.

Source: IoT Edge's workload API (edgelet/api/workload.yaml of github.com/Azure/iotedge).
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from edge_agent.link.iothub.identity import HubIdentity
from edgewright.errors import BadInputError, UnreachableError, one_line

_TIMEOUT_S = 30.0
_VARIABLES = (
    "IOTEDGE_IOTHUBHOSTNAME",
    "IOTEDGE_DEVICEID",
    "IOTEDGE_MODULEID",
    "IOTEDGE_GATEWAYHOSTNAME",
    "IOTEDGE_MODULEGENERATIONID",
    "IOTEDGE_WORKLOADURI",
    "IOTEDGE_APIVERSION",
)


def identity_of_module(environment: Mapping[str, str]) -> HubIdentity:
    """Return the identity of the module whose container this is.

    Raises:
        BadInputError: the runtime's variables are missing.
        UnreachableError: the workload API does not answer.
    """
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing:
        raise BadInputError(
            f"iothub.edge needs the variables of the IoT Edge runtime, but these are missing: {', '.join(missing)}; "
            "run the agent as a module, or set iothub.connection_string"
        )
    host, device, module, gateway, generation, uri, version = (environment[name] for name in _VARIABLES)
    api = WorkloadApi(uri, version)
    return HubIdentity(
        host=host,
        device=device,
        module=module,
        gateway=gateway,
        context=ssl.create_default_context(cadata=api.trust_bundle()),
        sign=lambda signed: api.sign(module, generation, signed),
    )


@dataclass(frozen=True, slots=True)
class WorkloadApi:
    """The workload API at `unix:///path` or `http://host:port`."""

    uri: str
    version: str

    def trust_bundle(self) -> str:
        """Return the certificates that verify the gateway, PEM; raise `UnreachableError` without an answer."""
        return str(self._call("GET", "/trust-bundle", None).get("certificate", ""))

    def sign(self, module: str, generation: str, signed: bytes) -> str:
        """Return the base64 signature by the module's key; raise `UnreachableError` without an answer."""
        request = {"keyId": "primary", "algo": "HMACSHA256", "data": base64.b64encode(signed).decode("ascii")}
        path = f"/modules/{quote(module, safe='')}/genid/{quote(generation, safe='')}/sign"
        return str(self._call("POST", path, request).get("digest", ""))

    def _call(self, method: str, path: str, body: object) -> dict[str, Any]:
        connection = _connection(self.uri)
        raw = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, f"{path}?api-version={self.version}", raw, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read(1 << 20))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(f"the workload API of IoT Edge at {self.uri} does not answer: {one_line(error)}") from error
        finally:
            connection.close()
        if response.status >= 300 or not isinstance(answer, dict):
            raise UnreachableError(f"the workload API of IoT Edge refuses {path} with status {response.status}")
        return answer


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection(uri: str) -> http.client.HTTPConnection:
    parts = urlsplit(uri)
    if parts.scheme == "unix":
        return _UnixConnection(unquote(parts.path))
    if parts.scheme == "http" and parts.hostname:
        return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    raise BadInputError(f"IOTEDGE_WORKLOADURI must be unix:///PATH or http://HOST:PORT, not {uri!r}")
