"""Settings of the agent: `agent.toml` in the state directory overrides the defaults, the command line overrides both.

    port = 8080
    transport = "https"
    choose = "measured"

The path of the default state directory follows the XDG base directory specification.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.iothub import sas
from edgewright.contracts.iothub.connection_strings import parse_client
from edgewright.errors import BadInputError

SETTINGS_FILE = "agent.toml"


class TransportChoice(StrEnum):
    """Transport to the cloud; `auto` prefers MQTT and falls back to HTTPS, `iothub` is an Azure IoT Hub."""

    AUTO = "auto"
    MQTT = "mqtt"
    HTTPS = "https"
    IOTHUB = "iothub"


class ChooseBy(StrEnum):
    """Rule that selects among the fitting variants: the profile's order, or the fastest one measured on this device."""

    PROFILE = "profile"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """Containers in which the models run; only the owner of the device writes them, so the cloud gains no right by them."""

    image: str
    """Image with this version of edgewright: NAME@DIGEST, or NAME:TAG."""
    cpus: float | None = None
    memory_bytes: int | None = None
    """Memory of each container; one that needs more is ended."""
    devices: tuple[str, ...] = ()
    """Device nodes that the model may use, such as `/dev/ttyUSB0`."""
    groups: tuple[str, ...] = ()
    """Further groups of the model's process, such as `dialout`."""
    network: str = "none"
    """Network of the containers; a model needs none."""
    drain_timeout_s: float = 10.0
    """Time limit for open requests when a container ends."""

    def __post_init__(self) -> None:
        if not self.image:
            raise BadInputError("container.image must be the reference of an image, as in registry.example/edgewright:1")
        for name in ("cpus", "memory_bytes", "drain_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInputError(f"container.{name} must be positive, not {value}")
        for node in self.devices:
            if not node.startswith("/dev/") or not Path(node).exists():
                raise BadInputError(f"container.devices must be device nodes that exist, such as /dev/ttyUSB0, not {node}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IotHubSettings:
    """Identity of the device at an IoT Hub, for `transport = "iothub"`; its name there is that of its enrolment."""

    connection_string: str = field(default="", repr=False)
    """`HostName=…;DeviceId=…;SharedAccessKey=…`, or with `x509=true` in place of the key; `ModuleId=…` for a module."""
    id_scope: str = ""
    """Id scope of the provisioning service (DPS), in place of a connection string."""
    registration: str = ""
    """Registration id; empty means the name of the device."""
    symmetric_key: str = field(default="", repr=False)
    """Key of the registration, base64; that of an enrolment group must have been derived for this device."""
    provisioning_host: str = "global.azure-devices-provisioning.net"
    """Host of the provisioning service."""
    edge: bool = False
    """Take the identity of the module from the IoT Edge runtime that started this container."""
    certificate: str = ""
    """File of the device's certificate with its chain, PEM."""
    key: str = ""
    """File of the certificate's private key; empty if it is in the file of the certificate."""
    ca_file: str = ""
    """File of the authority of the hub; empty means the system's authorities."""
    ping_s: float = 60.0
    """Interval between reads of the twin, which show that the hub answers."""
    token_s: float = 3600.0
    """Validity of a token; the agent connects with a new one after three quarters of it."""

    def __post_init__(self) -> None:
        if [bool(self.connection_string), bool(self.id_scope), self.edge].count(True) != 1:
            raise BadInputError("[iothub] must have one of connection_string, id_scope and edge = true")
        if self.connection_string and not parse_client(self.connection_string).key and not self.certificate:
            raise BadInputError("iothub.certificate must be the file of the device's certificate, because x509=true has no key")
        if self.id_scope and bool(self.symmetric_key) == bool(self.certificate):
            raise BadInputError("iothub.id_scope needs either iothub.symmetric_key or iothub.certificate")
        if self.symmetric_key:
            _check_symmetric_key(self.symmetric_key)
        for name in ("ping_s", "token_s"):
            if not getattr(self, name) > 0:
                raise BadInputError(f"iothub.{name} must be positive, not {getattr(self, name)}")


def _check_symmetric_key(key: str) -> None:
    try:
        sas.check_key(key)
    except BadInputError:
        raise BadInputError("iothub.symmetric_key must be base64 of 16 to 64 bytes, but it is not") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one agent."""

    port: int = 8080
    """Scoring port on 127.0.0.1; 0 takes a free port."""
    transport: TransportChoice = TransportChoice.AUTO
    choose: ChooseBy = ChooseBy.PROFILE
    backend: str = "auto"
    threads: int | None = None
    npu_device: str | None = None
    """Serial port or USB id of the NPU board, or `none`; None searches every USB serial port."""
    report_every_s: float = 60.0
    measure_every_s: float = 10.0
    telemetry_quota_bytes: int = 32 << 20
    probe_every_s: float = 2.0
    load_timeout_s: float = 60.0
    """Time limit for loading the model."""
    check_timeout_s: float = 300.0
    """Time limit for scoring all golden samples."""
    inference_timeout_s: float = 30.0
    """Time limit for one run of the model; after it the runner is replaced."""
    drain_timeout_s: float = 10.0
    container: ContainerSettings | None = None
    """Run the models in containers; None runs them as processes."""
    iothub: IotHubSettings | None = None
    """Identity at an IoT Hub; needed by the transport `iothub`."""
    memory_limit_bytes: int | None = None
    """Memory that the runners of all workloads may use together; None is what the machine has."""
    retry_base_s: float = 1.0
    retry_cap_s: float = 300.0
    return_every_s: float = 60.0
    """Interval between attempts to use a preferred transport."""
    renewal_check_s: float = 86400.0
    """Longest interval between checks of the certificate."""
    renewal_retry_s: float = 60.0
    """Pause after a failed renewal; doubled after each failure, up to an hour."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise BadInputError(f"port must be between 0 and 65535, not {self.port}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise BadInputError(f"{name} must be positive, not {getattr(self, name)}")


_POSITIVE = (
    "report_every_s",
    "measure_every_s",
    "telemetry_quota_bytes",
    "probe_every_s",
    "load_timeout_s",
    "check_timeout_s",
    "inference_timeout_s",
    "drain_timeout_s",
    "retry_base_s",
    "retry_cap_s",
    "return_every_s",
    "renewal_check_s",
    "renewal_retry_s",
)


def default_state_directory() -> Path:
    """Return the default state directory (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "edgewright" / "agent"


def load_settings(
    state_directory: Path, *, port: int | None = None, transport: str | None = None, choose: str | None = None
) -> Settings:
    """Read `agent.toml`, if it exists, and apply the options of the command line.

    Raises:
        BadInputError: `agent.toml` is invalid, or a value is out of range.
    """
    path = state_directory / SETTINGS_FILE
    settings = Settings()
    if path.is_file():
        settings = _read(path)
    if port is not None:
        settings = replace(settings, port=port)
    if transport is not None:
        settings = replace(settings, transport=TransportChoice(transport))
    if choose is not None:
        settings = replace(settings, choose=ChooseBy(choose))
    return settings


def _read(path: Path) -> Settings:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} must be TOML: {error}") from error
    _check_names(table, Settings, path, "")
    _check_names(table.get("container", {}), ContainerSettings, path, "container.")
    _check_names(table.get("iothub", {}), IotHubSettings, path, "iothub.")
    try:
        return wire.convert(table, Settings, what=str(path), error=BadInputError)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error


def _check_names(table: object, kind: type[Settings | ContainerSettings | IotHubSettings], path: Path, prefix: str) -> None:
    names = [field.name for field in fields(kind)]
    unknown = sorted(set(table) - set(names)) if isinstance(table, dict) else []
    if unknown:
        raise BadInputError(f"{path}: {prefix + unknown[0]!r} is not a setting; use one of {', '.join(names)}")
