"""The workload API: a module signs tokens with its key, which it never has, and gets certificates, over a Unix socket.

Each module has a socket of its own, so it can only sign as itself. The socket is in a folder that its container sees as a volume,
so a runtime that starts again can replace it.

    GET  /trust-bundle
    POST /modules/NAME/genid/GENERATION/sign                       HMAC-SHA256 with the module's key
    POST /modules/NAME/genid/GENERATION/certificate/server         {"commonName": …}
    POST /modules/NAME/genid/GENERATION/certificate/identity

Source: IoT Edge's workload API (edgelet/api/workload.yaml of github.com/Azure/iotedge). Encryption is missing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.server
import json
import logging
import os
import re
import shutil
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edgewright.iotedge.runtime.certificates import DeviceAuthority
from edgewright.iotedge.runtime.identities import ModuleIdentity

_LOG = logging.getLogger(__name__)

API_VERSION = "2019-01-30"
SOCKET = "workload.sock"
_MAX_BODY_BYTES = 64 << 10
_ROUTE = re.compile(r"/modules/([^/]+)/genid/([^/]+)/(sign|certificate/server|certificate/identity)")
_TIMEOUT_S = 30

Lookup = Callable[[str], ModuleIdentity | None]


class Workloads:
    """The sockets of all modules of one device."""

    def __init__(self, folder: Path, identities: Lookup, authority: DeviceAuthority) -> None:
        self._folder = folder
        self._identities = identities
        self._authority = authority
        self._servers: dict[str, _Server] = {}

    def folder_of(self, module: str) -> Path:
        """Return the folder of a module's socket, which accepts requests from now on."""
        folder = self._folder / module
        if module not in self._servers:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._servers[module] = _Server(folder, module, self._identities, self._authority)
        return folder

    def remove(self, module: str) -> None:
        """Close the socket of a module that is gone."""
        server = self._servers.pop(module, None)
        if server is not None:
            server.close()
        shutil.rmtree(self._folder / module, ignore_errors=True)

    def close(self) -> None:
        """Close all sockets."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, folder: Path, module: str, identities: Lookup, authority: DeviceAuthority) -> None:
        self.module = module
        self.identities = identities
        self.authority = authority
        (folder / SOCKET).unlink(missing_ok=True)
        # A socket's address has at most 107 bytes, a path may be longer: the folder is named by its open descriptor.
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            super().__init__(f"/proc/self/fd/{descriptor}/{SOCKET}", _Handler)
        finally:
            os.close(descriptor)
        (folder / SOCKET).chmod(0o666)  # the user of a container may be any
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        connection.settimeout(_TIMEOUT_S)
        return connection, ("module", 0)  # the base class of handlers logs an address


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/trust-bundle":
            self._answer(200, {"certificate": self.server.authority.trust_bundle()})
        else:
            self._answer(404, {"message": "the workload API has no such path"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            self._answer(400, {"message": f"a body must have at most {_MAX_BODY_BYTES} bytes"})
            return
        raw = self.rfile.read(int(length))
        match = _ROUTE.fullmatch(urlsplit(self.path).path)
        identity = self.server.identities(self.server.module)
        if match is None or identity is None:
            self._answer(404, {"message": "the workload API has no such path"})
        elif (unquote(match[1]), unquote(match[2])) != (identity.module, identity.generation):
            self._answer(403, {"message": f"the socket is that of module {identity.module} and its current generation only"})
        else:
            self._handle(match[3], identity, raw)

    def _handle(self, operation: str, identity: ModuleIdentity, raw: bytes) -> None:
        try:
            request = json.loads(raw)
            if operation == "sign":
                data = base64.b64decode(request["data"], validate=True)
                digest = hmac.new(base64.b64decode(identity.key), data, hashlib.sha256).digest()
                self._answer(200, {"digest": base64.b64encode(digest).decode("ascii")})
                return
            is_server = operation == "certificate/server"
            name = str(request["commonName"]) if is_server else identity.module
            if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", name):
                raise ValueError("commonName must be a host name or address")
            key, certificate, ends_at = self.server.authority.issue(name, is_server=is_server)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            self._answer(400, {"message": f"the request must be JSON of the workload API: {error}"})
            return
        private = {"type": "key", "bytes": key}
        self._answer(201, {"privateKey": private, "certificate": certificate, "expiration": ends_at.isoformat()})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *arguments: Any) -> None:
        _LOG.debug("workload module=%s %s", self.server.module, format % arguments)
