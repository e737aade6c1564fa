"""Endpoints: a scoring service with an address and keys, and the deployment that it is made of.

Names follow the rules of Azure ML's web services, so that a name that works there works here.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from edgewright.contracts.models.registration import SourceFile
from edgewright.contracts.names import check_name
from edgewright.errors import BadInputError

FILES_REPOSITORY = "endpoint-files"
"""Repository of the registry that holds the files of entry scripts."""
MAX_FILES = 1000
MAX_LABELS = 64
MIN_KEY_LENGTH = 16
MAX_KEY_LENGTH = 256
MAX_TOKEN_S = 30 * 86400.0
_NAME = re.compile(r"[a-z][a-z0-9-]{1,30}[a-z0-9]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]*")


class EndpointState(enum.StrEnum):
    """State of an endpoint, in the words of Azure ML; the rules are in `cloud/endpoints/rules.py`."""

    TRANSITIONING = "Transitioning"  # its deployment is being started
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"  # it was healthy; it does not answer, and is started again
    FAILED = "Failed"  # its deployment did not start; an earlier one may still answer
    DELETING = "Deleting"


class EndpointTarget(enum.StrEnum):
    """Kind of place where an endpoint runs."""

    LOCAL = "local"  # processes of this machine
    CONTAINER = "container"  # a container of this machine's engine


class EndpointAuth(enum.StrEnum):
    """Credential that a client must send."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105  the name of a method
    OFF = "off"


class KeyName(enum.StrEnum):
    """Name of a key: with two of them, one can be replaced while clients use the other."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedModel:
    """A model version of an endpoint."""

    name: str
    version: int

    def __post_init__(self) -> None:
        check_name(self.name, "model")

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The models and the script of an endpoint, and how they run."""

    models: tuple[DeployedModel, ...] = ()
    files: tuple[SourceFile, ...] = ()
    """The folder of the entry script; its files are in the registry."""
    entry_script: str = ""
    """Path of the script in that folder; empty for a model that is served without code."""
    trust: bool = False
    """Open a pickle, or a layer with code, of a model that is served without code."""
    environment: str = ""
    """Name or name:version of an environment."""
    image: str = ""
    """Reference of a container image that holds the server, the models and the script; empty: the cloud builds one."""
    target: EndpointTarget = EndpointTarget.LOCAL
    port: int | None = None
    """None: a free port, which stays the same."""
    grpc_port: int | None = None
    """Port that also answers gRPC; 0 for a free one, which the cloud chooses and stores here. None: no gRPC."""
    cpu: float | None = None
    """Processors that it may use."""
    memory_gb: float | None = None
    gpus: int = 0
    replicas: int = 1
    """Server processes."""
    workers: int = 1
    """Worker processes of the script, in each server process."""
    auth: EndpointAuth = EndpointAuth.KEY
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of the script."""
    init_timeout_s: float = 300.0
    """Time for `init` of the script."""
    scoring_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _check_content(self)
        _check_resources(self)
        for name, value in self.variables.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise BadInputError(
                    f"a variable must have a name of letters, digits and _, and a text, but {name[:64]!r} has not"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLabels:
    """Facts about an endpoint for people. Tags may be replaced; properties are only added."""

    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.description) > 1000:
            raise BadInputError(f"a description must have at most 1000 characters, not {len(self.description)}")
        for labels in (self.tags, self.properties):
            if len(labels) > MAX_LABELS:
                raise BadInputError(f"an endpoint may have at most {MAX_LABELS} tags and as many properties, not {len(labels)}")
            for name, value in labels.items():
                if not 0 < len(name) <= 256 or len(value) > 256:
                    raise BadInputError(f"a tag or property must have at most 256 characters, but {name[:32]!r} has more")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointKeys:
    """The keys of an endpoint."""

    primary: str
    secondary: str

    def __post_init__(self) -> None:
        check_key(self.primary)
        check_key(self.secondary)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """Request to create an endpoint: PUT /v1/endpoints/{endpoint}."""

    deployment: Deployment
    labels: EndpointLabels = EndpointLabels()
    overwrite: bool = False
    """True: an endpoint of this name gets the new deployment."""
    primary_key: str = ""
    """Empty: a random key."""
    secondary_key: str = ""

    def __post_init__(self) -> None:
        for key in (self.primary_key, self.secondary_key):
            if key:
                check_key(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest:
    """Request to change an endpoint: PATCH /v1/endpoints/{endpoint}. None leaves a value as it is."""

    deployment: Deployment | None = None
    description: str | None = None
    tags: dict[str, str] | None = None
    """All tags."""
    properties: dict[str, str] | None = None
    """Properties to add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegenerateRequest:
    """Request to replace one key: POST /v1/endpoints/{endpoint}/keys."""

    name: KeyName
    key: str = ""
    """Empty: a random key."""

    def __post_init__(self) -> None:
        if self.key:
            check_key(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTokenRequest:
    """Request for a token of an endpoint: POST /v1/endpoints/{endpoint}/token."""

    valid_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.valid_s <= MAX_TOKEN_S:
            raise BadInputError(f"a token must be valid for 1 to {MAX_TOKEN_S:g} s, not {self.valid_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointToken:
    """A token that an endpoint accepts in place of a key, until it expires or its primary key is replaced."""

    token: str
    expires_at: datetime
    refresh_after: datetime
    """When a client should get the next one: after nine tenths of the validity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRecord:
    """The cloud's record of an endpoint."""

    endpoint: str
    deployment: Deployment
    labels: EndpointLabels
    generation: int
    """Number of the deployment: 1, 2, 3, …"""
    state: EndpointState
    reason: str
    """The cause of a state other than Healthy, on one line."""
    answering: int | None
    """Generation that answers at the moment; None if none does."""
    scoring_uri: str
    swagger_uri: str
    created_at: datetime
    changed_at: datetime
    grpc_address: str = ""
    """`HOST:PORT` of gRPC without TLS; empty without gRPC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLog:
    """The last lines of an endpoint's log: GET /v1/endpoints/{endpoint}/logs."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryItem:
    """An item that a script recorded: a measurement, an event, a trace or an exception."""

    at: datetime
    kind: str
    """`metric`, `event`, `trace` or `exception`."""
    name: str = ""
    """Empty for a trace and an exception."""
    value: float | None = None
    """Of a metric; with `count`, the sum or mean that the script gave for several."""
    text: str = ""
    """Of a trace or an exception."""
    request: str = ""
    """Id of the request that the script answered; `init` before the first."""
    fields: dict[str, str | float | int | bool | None] = field(default_factory=dict)
    """Properties and measurements that the script added, and the summary of a metric (`count`, `min`, `max`, `std_dev`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTelemetry:
    """The newest telemetry of an endpoint, oldest first: GET /v1/endpoints/{endpoint}/telemetry."""

    items: tuple[TelemetryItem, ...]


def check_endpoint_name(name: str) -> str:
    """Return `name`; raise `BadInputError` if Azure ML would refuse it as the name of a service."""
    if not _NAME.fullmatch(name):
        raise BadInputError(
            "an endpoint's name must have 3 to 32 lower-case letters, digits and '-', begin with a letter and end with a letter "
            f"or digit, but {name[:64]!r} does not"
        )
    return name


def check_key(key: str) -> None:
    """Raise `BadInputError` for a key that is too short, or that a header cannot hold (RFC 6750, section 2.1)."""
    if not MIN_KEY_LENGTH <= len(key) <= MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise BadInputError(
            f"a key must have {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} letters, digits or . _ ~ + / = -, "
            f"but one of {len(key)} characters was given"
        )


def _check_content(deployment: Deployment) -> None:
    if not deployment.models and not deployment.entry_script and not deployment.image:
        raise BadInputError("an endpoint must have a model, an entry script or an image: name at least one")
    names = [model.name for model in deployment.models]
    if len(set(names)) != len(names):
        raise BadInputError(f"an endpoint must have one version of each model, but its models are {' '.join(names)}")
    if len(deployment.models) > 1 and not deployment.entry_script:
        raise BadInputError(f"an endpoint without an entry script must have one model, not {len(names)}: add a script")
    if deployment.entry_script:
        paths = [file.path for file in deployment.files]
        if PurePosixPath(deployment.entry_script).suffix != ".py" or deployment.entry_script not in paths:
            raise BadInputError(
                f"the entry script must be a Python file of the sent folder, not {deployment.entry_script[:100]!r}"
            )
    if len(deployment.files) > MAX_FILES:
        raise BadInputError(f"the folder of an entry script must have at most {MAX_FILES} files, not {len(deployment.files)}")
    if deployment.image and (deployment.entry_script or deployment.models):
        raise BadInputError("an image holds its models and script, so they must not be given with it: omit the image or them")
    if deployment.grpc_port is not None and (deployment.entry_script or deployment.target is not EndpointTarget.LOCAL):
        raise BadInputError(
            "a gRPC port needs a model without an entry script and the target local: omit grpc_port, or change the deployment"
        )
    if deployment.image and deployment.target is EndpointTarget.LOCAL:
        raise BadInputError("an image must have the target container, not local: omit the image, or change the target")


def _check_resources(deployment: Deployment) -> None:
    ranges = {
        "port": (deployment.port, 1, 65535),
        "grpc_port": (deployment.grpc_port, 0, 65535),
        "cpu": (deployment.cpu, 0.01, 1024),
        "memory_gb": (deployment.memory_gb, 0.01, 65536),
        "gpus": (deployment.gpus, 0, 64),
        "replicas": (deployment.replicas, 1, 64),
        "workers": (deployment.workers, 1, 256),
        "init_timeout_s": (deployment.init_timeout_s, 0.1, 86400),
        "scoring_timeout_s": (deployment.scoring_timeout_s, 0.1, 86400),
    }
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise BadInputError(f"{name} must be {least:g} to {most:g}, not {value:g}")
