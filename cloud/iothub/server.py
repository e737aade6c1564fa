"""Run a hub until a signal stops it: its listeners for MQTT and HTTPS on one event loop, over one store."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvicorn
from starlette.types import ASGIApp

from cloud.iothub.deployments.configurations import Configurations
from cloud.iothub.http import service
from cloud.iothub.http.device import Container, Uploads
from cloud.iothub.http.requests import Access
from cloud.iothub.hub import Hub, HubLimits
from cloud.iothub.mqtt.listener import MqttProtocol
from cloud.iothub.mqtt.packets import Connect
from cloud.iothub.mqtt.sessions import DeviceSession, Open, Session
from cloud.iothub.mqtt.websocket import HubHttpProtocol, http_protocol
from cloud.iothub.provisioning.enrolments import Enrolments
from cloud.iothub.provisioning.session import RegistrationSession, is_registration
from cloud.iothub.state import LOCAL_NAMES, HubState, prepare, write_address
from cloud.iothub.store import Store
from cloud.state.directory import locked
from edgewright.contracts.connection.client_context import is_loopback
from edgewright.errors import BadInputError, ConflictError

MQTT_PORT, HTTPS_PORT, UNPRIVILEGED_HTTPS_PORT = 8883, 443, 8443
_CLOSE_S = 2.0
_ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104  compared, not bound


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of `edgewright iothub up`."""

    state: Path
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    mqtt_port: int = MQTT_PORT
    https_port: int | None = None
    """None: 443, or 8443 if this user may not open 443."""
    plain_mqtt_port: int | None = None
    """An additional port for MQTT without TLS, on a loopback address only."""
    max_events: int = 1_000_000
    max_connections: int = 10_000
    upload_container: Container | None = None
    """The container to which devices upload files."""

    def __post_init__(self) -> None:
        if self.plain_mqtt_port is not None and not is_loopback(self.host):
            raise BadInputError(
                f"--plain-mqtt-port needs a loopback address such as 127.0.0.1 as --host, not {self.host}: omit one"
            )
        if self.max_events < 1 or self.max_connections < 1:
            raise BadInputError("the number of events and of connections must be at least 1")

    @property
    def hostname(self) -> str:
        """The name of the hub in connection strings."""
        if self.names:
            return self.names[0]
        return socket.gethostname() if self.host in _ANY_ADDRESS else self.host


@dataclass(frozen=True, slots=True)
class Started:
    """The addresses of a started hub."""

    hostname: str
    mqtt_port: int
    https_port: int
    plain_mqtt_port: int | None
    state: HubState


def run(settings: Settings, announce: Callable[[Started], None]) -> None:
    """Run a hub until SIGTERM or SIGINT.

    Raises:
        BadInputError: a setting or the state directory cannot be used.
        ConflictError: another hub uses the state directory, or a port is in use.
    """
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with locked(settings.state), contextlib.ExitStack() as opened:
        state = prepare(settings.state.resolve(), (*settings.names, *(() if settings.host in _ANY_ADDRESS else (settings.host,))))
        mqtt = opened.enter_context(_bind(settings.host, settings.mqtt_port, "--mqtt-port"))
        https = opened.enter_context(_bind_https(settings))
        plain = None
        if settings.plain_mqtt_port is not None:
            plain = opened.enter_context(_bind(settings.host, settings.plain_mqtt_port, "--plain-mqtt-port"))
        started = Started(settings.hostname, _port(mqtt), _port(https), None if plain is None else _port(plain), state)
        https_host = "127.0.0.1" if settings.host in _ANY_ADDRESS else settings.host
        write_address(
            state, hostname=started.hostname, mqtt_port=started.mqtt_port, https_host=https_host, https_port=started.https_port
        )
        loop_factory = _loop_factory()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve(settings, started, Sockets(mqtt, https, plain), announce))


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets."""

    mqtt: socket.socket
    https: socket.socket
    plain: socket.socket | None


async def _serve(settings: Settings, started: Started, sockets: Sockets, announce: Callable[[Started], None]) -> None:
    store = Store(started.state.database_file, max_events=settings.max_events)
    with contextlib.closing(store):
        hosts = {*settings.names, settings.hostname, *LOCAL_NAMES, socket.gethostname()}
        hub = Hub(store, hosts, limits=HubLimits(settings.max_connections))
        enrolments = Enrolments(store, hub.registry, hub.certificates)
        tls = _tls(started.state, hub, enrolments)

        def open_session(connect: Connect, certificate: bytes | None) -> Session:
            if is_registration(connect):
                return RegistrationSession(hub, enrolments, started.hostname, connect, certificate)
            return DeviceSession(hub, connect, certificate)

        async with _mqtt(open_session, sockets, tls):
            uploads = Uploads(hub, settings.upload_container)
            app = service.create(Access(hub, started.state.policies), uploads, enrolments, Configurations(store, hub))
            listener = _https(app, http_protocol(open_session), tls)
            with _ended_by_signals(listener):
                announce(started)
                serving = asyncio.create_task(listener.serve(sockets=[sockets.https]))
                await asyncio.wait((serving, store.failure), return_when=asyncio.FIRST_COMPLETED)
                listener.should_exit = True
                await serving
        await _close_links(hub)
    if store.failure.done():
        raise store.failure.result()


async def _close_links(hub: Hub) -> None:
    """Close all connections, and wait a moment for their ends, which are stored."""
    hub.links.close_all("the hub stops")
    ends_at = monotonic() + _CLOSE_S
    while hub.links.count() and monotonic() < ends_at:
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _mqtt(open_session: Open, sockets: Sockets, tls: ssl.SSLContext) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: MqttProtocol(open_session), sock=sockets.mqtt, ssl=tls)]
    if sockets.plain is not None:
        servers.append(await loop.create_server(lambda: MqttProtocol(open_session), sock=sockets.plain))
    try:
        yield
    finally:
        for each in servers:
            each.close()


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to `_ended_by_signals`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _https(app: ASGIApp, protocol: type[HubHttpProtocol], tls: ssl.SSLContext) -> _Listener:
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        ssl_context_factory=lambda _config, _default: tls,
    )
    return _Listener(config)


@contextlib.contextmanager
def _ended_by_signals(listener: _Listener) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, listener.handle_exit, number, None)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _tls(state: HubState, hub: Hub, enrolments: Enrolments) -> ssl.SSLContext:
    """Return the context of all listeners: TLS 1.2 or newer, with a client certificate if the client has one.

    A certificate of a client must be an uploaded one, or be issued by one: new handshakes see what was added since.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(state.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags = (
        ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    )  # without the rules for public authorities
    context.load_cert_chain(*state.server_files)
    for pem in (*hub.certificates.pems(), *enrolments.pems()):
        context.load_verify_locations(cadata=pem)
    hub.certificates.on_added = lambda pem: context.load_verify_locations(cadata=pem)
    return context


def _bind_https(settings: Settings) -> socket.socket:
    if settings.https_port is not None:
        return _bind(settings.host, settings.https_port, "--https-port")
    try:
        return _bind(settings.host, HTTPS_PORT, "--https-port")
    except BadInputError:  # a port below 1024 needs CAP_NET_BIND_SERVICE
        return _bind(settings.host, UNPRIVILEGED_HTTPS_PORT, "--https-port")


def _bind(host: str, port: int, option: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = (
                f"port {port} of {host} must be free, but another program uses it: stop it, or give another port with {option}"
            )
            raise ConflictError(message) from error
        raise BadInputError(f"cannot listen on {host} port {port}: {error.strerror}; give another --host or {option}") from error
    return opened


def _port(bound: socket.socket) -> int:
    number: int = bound.getsockname()[1]
    return number


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
