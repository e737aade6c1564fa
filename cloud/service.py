"""Run a cloud: start its parts in order of dependency.

lock the state directory → bind the port → open the database → prepare the broker → serve
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from cloud import app, server
from cloud.context import Cloud
from cloud.db.changes import Changes
from cloud.db.database import Database
from cloud.messaging.broker import Broker, end_orphan, find_mosquitto
from cloud.messaging.client import MqttClient
from cloud.messaging.iothub import hub_client, open_bridge
from cloud.registry.blobs import BlobStore
from cloud.state import directory as state_directory
from cloud.state.certificates import DEVICE_DAYS
from cloud.state.directory import StateDirectory
from cloud.state.identity import check_identity
from cloud.state.ports import bind, default_port
from cloud.state.stored_files import DATABASE, is_established
from edgewright.contracts.connection.client_context import is_loopback
from edgewright.contracts.connection.enrolment import BrokerAddress
from edgewright.contracts.names import check_name
from edgewright.errors import BadInputError

_ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104  compared with --host, not bound
_HTTPS_PORT = 8443
_MQTTS_PORT = 8883
_LOG = logging.getLogger("edgewright.cloud")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `edgewright cloud up`."""

    state: Path
    host: str = "127.0.0.1"
    port: int | None = None
    """None: the port of the last run, at first 8443; 0: the port of the last run if it is free, else any free port."""
    names: tuple[str, ...] = ()
    """Additional host names of this cloud; devices and clients are configured with the first."""
    trust: tuple[Path, ...] = ()
    broker_url: str | None = None
    broker_port: int = 0
    with_broker: bool = True
    database_url: str | None = None
    new_token: bool = False
    """Replace the operator token."""
    device_days: float = DEVICE_DAYS
    """Validity of a device certificate."""
    plain_http: bool = False
    """Listen without TLS, on a loopback address only. Devices cannot enrol, so there is no broker."""
    idle_stop_s: float | None = None
    """Stop after this time without a request; None: never."""

    iothub_file: Path | None = None
    """File with the connection string of a service at an IoT Hub whose devices are devices of this cloud."""
    iothub_ca_file: Path | None = None
    """Authority of that hub; None: the system's."""
    iothub_module: str = ""
    """Module of each device that runs the agent; empty: the device itself."""

    def __post_init__(self) -> None:
        if self.iothub_file is None and (self.iothub_ca_file is not None or self.iothub_module):
            raise BadInputError("--iothub-ca and --iothub-module need --iothub, the file with the connection string of a hub")
        if self.iothub_file is not None:
            hub_client(self.iothub_file, self.iothub_ca_file)  # a state directory is not begun with a file that cannot be used
        if self.iothub_module:
            check_name(self.iothub_module, "--iothub-module")
        if not 0 < self.device_days <= DEVICE_DAYS:
            raise BadInputError(f"device_days must be greater than 0 and at most {DEVICE_DAYS}, not {self.device_days:g}")
        if self.plain_http and not is_loopback(self.host):
            raise BadInputError(f"--plain-http needs a loopback address such as 127.0.0.1 as --host, not {self.host}: omit one")
        if self.idle_stop_s is not None and self.idle_stop_s <= 0:
            raise BadInputError(f"the time without a request must be positive, not {self.idle_stop_s:g} s")


@dataclass(frozen=True, slots=True)
class Started:
    """The addresses and the state directory of a started cloud."""

    url: str
    state: StateDirectory
    broker: BrokerAddress | None


def run(settings: Settings, announce: Callable[[Started], None]) -> None:
    """Run a cloud until a signal stops it."""
    os.umask(0o077)  # all files are readable by their owner only
    _raise_file_limit()
    with state_directory.locked(settings.state):
        state = _open_state(settings)
        end_orphan(state.path)
        for key_file in settings.trust:
            state_directory.trust(state.path, key_file)
        port_file = state.path / "port"
        with bind(settings.host, default_port(settings.port, port_file, _HTTPS_PORT), port_file, "--port") as bound:
            scheme = "http" if settings.plain_http else "https"
            url = f"{scheme}://{_bracketed(_public_host(settings))}:{bound.getsockname()[1]}"
            database = _open_database(settings, state)
            broker = _own_broker(settings, state, database)
            cloud = _cloud(settings, state, database, broker, url)
            state.write_client_context(url)
            started = Started(url, state, cloud.broker)
            asyncio.run(_serve(settings, cloud, broker, bound, lambda: announce(started)))


def _raise_file_limit() -> None:
    """Allow as many open files as the system permits: the usual soft limit of 1024 is used up by 1,000 connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_state(settings: Settings) -> StateDirectory:
    return state_directory.prepare(
        settings.state,
        _names(settings),
        datetime.now(UTC),
        new_token=settings.new_token,
        has_other_database=settings.database_url is not None,
    )


def _open_database(settings: Settings, state: StateDirectory) -> Database:
    url = settings.database_url or f"sqlite:///{state.path / DATABASE}"
    database = Database.open(url, must_exist=is_established(state.path))
    check_identity(database, state, replaces_token=settings.new_token)
    return database


async def _serve(
    settings: Settings, cloud: Cloud, broker: Broker | None, bound: socket.socket, announce: Callable[[], None]
) -> None:
    state = cloud.state
    server_files = None if settings.plain_http else state.server_files
    listener = server.create(app.create(cloud), cloud.changes, ca_file=state.ca_file, server_files=server_files)
    with listener.ended_by_signals():
        async with app.running(cloud, broker):
            announce()
            watch = asyncio.create_task(_stop_when_idle(cloud, listener, settings.idle_stop_s))
            await listener.serve(sockets=[bound])
            watch.cancel()


async def _stop_when_idle(cloud: Cloud, listener: server.Server, idle_stop_s: float | None) -> None:
    """Stop the listener `idle_stop_s` seconds after the last request."""
    if idle_stop_s is None:
        return
    while (left_s := cloud.last_used_s + idle_stop_s - monotonic()) > 0:
        await asyncio.sleep(left_s)
    _LOG.info("stopped because of no request for_s=%g", idle_stop_s)
    listener.should_exit = True


def _cloud(settings: Settings, state: StateDirectory, database: Database, broker: Broker | None, url: str) -> Cloud:
    blobs = BlobStore(state.path / "registry", database)
    blobs.prepare()
    cloud = Cloud(
        state=state, database=database, changes=Changes(database), blobs=blobs, url=url, device_days=settings.device_days
    )
    if settings.iothub_file is not None:
        cloud.iothub = open_bridge(database, settings.iothub_file, settings.iothub_ca_file, settings.iothub_module)
    if broker is not None:
        cloud.broker = BrokerAddress(host=_public_host(settings), port=broker.port)
        local = BrokerAddress(host="localhost" if settings.host in _ANY_ADDRESS else settings.host, port=broker.port)
        cloud.mqtt = MqttClient(state, database, local, broker.reload)
    elif settings.broker_url is not None:
        cloud.broker = _address(settings.broker_url)
        cloud.mqtt = MqttClient(state, database, cloud.broker, lambda: None)
    return cloud


def _own_broker(settings: Settings, state: StateDirectory, database: Database) -> Broker | None:
    program = find_mosquitto()
    if not settings.with_broker or settings.plain_http or settings.broker_url is not None or program is None:
        return None
    broker = Broker(program, state, database, host=settings.host, port=settings.broker_port)
    broker.prepare()
    return broker


def _address(url: str) -> BrokerAddress:
    parts = urlsplit(url)
    try:
        port = parts.port or _MQTTS_PORT
    except ValueError as error:
        raise BadInputError(f"--broker must have the form mqtts://host:8883, not {url!r}: {error}") from error
    if parts.scheme != "mqtts" or not parts.hostname:
        raise BadInputError(f"--broker must have the form mqtts://host:8883 (TLS is always on), not {url!r}")
    return BrokerAddress(host=parts.hostname, port=port)


def _names(settings: Settings) -> tuple[str, ...]:
    return settings.names if settings.host in _ANY_ADDRESS else (*settings.names, settings.host)


def _public_host(settings: Settings) -> str:
    if settings.names:
        return settings.names[0]
    return socket.gethostname() if settings.host in _ANY_ADDRESS else settings.host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
