"""The gRPC server beside the HTTP server: same process, event loop and model.

start    bind the port, with TLS where HTTP has it
stop     accept no new call, and wait for the open ones
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import grpc

from edgewright.errors import BadInputError, NotFoundError
from edgewright.serving.grpc import open_inference, tensorflow_serving
from edgewright.serving.grpc.calls import Method, unary
from edgewright.serving.grpc.open_inference_messages import SERVICE as OPEN_INFERENCE
from edgewright.serving.grpc.tensorflow_messages import HEALTH_MESSAGES, HEALTH_SERVICE
from edgewright.serving.grpc.tensorflow_messages import SERVICE as PREDICTION
from edgewright.serving.http.server import DRAIN_LIMIT_S, TlsFiles
from edgewright.serving.variants.app import ScoringApp

_MESSAGE_OVERHEAD_BYTES = 64 << 10
"""Names, shapes and parameters beside the values of a message."""
_MAX_CALLS = 1024
_HANDSHAKE_MS = 20_000
_SERVING, _NOT_SERVING = 1, 2
"""ServingStatus of grpc.health.v1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcAddress:
    """Where the gRPC server listens; port 0 picks a free port."""

    host: str
    port: int
    tls: TlsFiles | None = None
    is_shared: bool = False
    """Other processes of this user may listen on the port, too: the next server is ready before this one ends."""


class GrpcServer:
    """A gRPC server for one model."""

    def __init__(self, app: ScoringApp, address: GrpcAddress) -> None:
        self.port = address.port
        """The port that the server listens on; known after `start`."""
        self._app = app
        self._address = address
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen and accept calls.

        Raises:
            BadInputError: the port is in use, or the host is not an address of this machine.
        """
        limit_bytes = self._app.limits.max_body_bytes + _MESSAGE_OVERHEAD_BYTES
        options = [
            ("grpc.max_receive_message_length", limit_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(self._address.is_shared)),  # its default is 1: two services would share a port
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        server.add_generic_rpc_handlers(services(self._app))
        host, port = self._address.host, self._address.port
        try:
            if not self._address.is_shared:
                _check_free(host, port)
            self.port = self._bind(server)
        except (OSError, RuntimeError) as error:
            reason = f": {error.strerror}" if isinstance(error, OSError) else ""
            raise BadInputError(f"cannot listen on {host} port {port} for gRPC{reason}; choose another port") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Accept no new call and return when the open ones were answered, or after 30 s."""
        if self._server is not None:
            await self._server.stop(DRAIN_LIMIT_S)

    def _bind(self, server: grpc.aio.Server) -> int:
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        target = f"{host}:{self._address.port}"
        if self._address.tls is None:
            return int(server.add_insecure_port(target))
        files = self._address.tls
        pair = (files.private_key.read_bytes(), files.certificate.read_bytes())
        return int(server.add_secure_port(target, grpc.ssl_server_credentials([pair])))


def services(app: ScoringApp) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the handlers of every call that the server answers."""
    return open_inference.handlers(app), tensorflow_serving.handlers(app), _health(app)


def _check_free(host: str, port: int) -> None:
    """Raise `OSError` if a port is in use; gRPC itself writes such an error to standard error, too."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _health(app: ScoringApp) -> grpc.GenericRpcHandler:
    async def check(request: Any) -> Any:
        if request.service not in ("", OPEN_INFERENCE, PREDICTION):
            raise NotFoundError(f"{request.service} is not served here; there are {OPEN_INFERENCE} and {PREDICTION}")
        return HEALTH_MESSAGES["HealthCheckResponse"](status=_NOT_SERVING if app.draining else _SERVING)

    method = Method(HEALTH_MESSAGES["HealthCheckRequest"], check, is_public=True)
    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": unary(app, method)})
