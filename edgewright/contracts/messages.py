"""What cloud, devices and clients say to each other; the bodies are the same over MQTT and HTTPS.

Instants are aware UTC. Fields that a reader does not know are ignored, so both sides can grow.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from edgewright.contracts.names import check_digest, check_name
from edgewright.contracts.oci import Descriptor
from edgewright.errors import MessageError


class DeploymentState(enum.StrEnum):
    """How far a device has got with one desired version; the table of steps is `edge_agent/deployment/states.py`."""

    OFFERED = "offered"  # the cloud's own: wanted, nothing heard yet
    ACCEPTED = "accepted"
    FETCHING = "fetching"
    VERIFIED = "verified"
    STAGED = "staged"
    SWITCHING = "switching"
    TRIAL = "trial"
    RUNNING = "running"
    ROLLING_BACK = "rolling_back"
    REFUSED = "refused"  # never ran: failed a check before the switch
    ROLLED_BACK = "rolled_back"  # ran, failed its trial, the last good version runs again
    FAILED = "failed"  # could not be fetched or started within its attempts
    SUPERSEDED = "superseded"  # a newer desired version arrived first

    @property
    def is_final(self) -> bool:
        """Tell whether the device is done with this desired version."""
        return self in _FINAL

    @property
    def is_failure(self) -> bool:
        """Return True if the device ended without running the desired version."""
        return self in _FAILURES


_FAILURES = frozenset({DeploymentState.REFUSED, DeploymentState.ROLLED_BACK, DeploymentState.FAILED})
_FINAL = _FAILURES | {DeploymentState.RUNNING, DeploymentState.SUPERSEDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What the cloud wants of one device: the payload of a DSSE envelope signed by the cloud's own key.

    `desired_number` only ever rises, also for a rollback, where `version` falls and `allow_downgrade` says so.
    """

    device: str
    desired_number: int
    model: str
    version: int
    index: Descriptor
    allow_downgrade: bool = False
    trial_s: float = 60.0
    """How long the new version must run well before it is committed."""
    device_timeout_s: float = 3600.0
    """How long the device may take from accepting to running, while it is online."""

    def __post_init__(self) -> None:
        check_name(self.device, "device")
        check_name(self.model, "model")
        if self.desired_number < 1 or self.version < 1:
            raise MessageError(f"versions must be whole numbers from 1, not {self.desired_number} and {self.version}")
        if self.trial_s < 0 or self.device_timeout_s <= 0:
            raise MessageError(
                f"trial_s must be 0 or more and device_timeout_s positive, not {self.trial_s}, {self.device_timeout_s}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningVariant:
    """What a device is scoring with."""

    model: str
    version: int
    index_digest: str
    variant: str
    backend: str
    precision: str

    def __post_init__(self) -> None:
        check_digest(self.index_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedState:
    """What a device says of itself: always which step it is at, why, since when, and what comes next."""

    device: str
    desired_number: int
    """The desired version that `state` is about; 0 before the first."""
    state: DeploymentState | None
    """None before the first desired version."""
    reason: str
    since: datetime
    attempt: int = 1
    next_retry_at: datetime | None = None
    running: RunningVariant | None = None
    profile: str = ""
    agent_version: str = ""
    boot_id: str = ""
    sequence: int = 0
    """Rises with every report of a device, so that a late one is known as late."""
    bytes_pulled: int = 0
    """Bytes fetched from the registry for `desired_number`, over all attempts."""
    choice: tuple[str, ...] = ()
    """Why this variant: one sentence per variant of the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measurement: `sequence` rises by one per device and queue, without gaps, so that a loss can be counted."""

    sequence: int
    at: datetime
    name: str
    value: float
    unit: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryBatch:
    """Measurements in the order of their sequence; `queue_id` changes when a device had to begin a new queue."""

    device: str
    queue_id: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryAck:
    """Everything up to and including `sequence` is stored for good and may be forgotten by the device."""

    queue_id: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMeasurement(Measurement):
    """A measurement as the cloud keeps it: GET /v1/telemetry answers a list of these."""

    device: str
    queue_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether a device is connected to the broker."""

    online: bool
    boot_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """What an enrolment token says: where the cloud is, which certificate authority to believe, and the secret to show.

    As text it is `ew1.` and the base64url of this as JSON (`edgewright/contracts/enrolment.py`).
    """

    url: str
    ca_sha256: str
    """SHA-256 of the DER certificate of the cloud's authority, in hexadecimal."""
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """A device asks for its certificate: POST /v1/enrol. The key stays on the device."""

    secret: str
    device: str
    csr_pem: str
    profile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where the MQTT broker listens with TLS; devices show the same certificate there."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolResponse:
    """What makes a device a member: its certificate and what it may believe from now on."""

    device: str
    tenant: str
    certificate_pem: str
    ca_pem: str
    cloud_key_pem: str
    """Verifies desired state."""
    publisher_keys_pem: tuple[str, ...]
    """Verify packages."""
    broker: BrokerAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRequest:
    """A member asks for its next certificate: POST /v1/device/certificate, over the present one. The key is a new one."""

    csr_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalChallenge:
    """GET /v1/renew: what a device whose certificate has expired signs, once and soon, to show that it holds the old key."""

    nonce: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalProof:
    """The payload of the envelope, signed by the old key, that POST /v1/renew takes."""

    nonce: str
    certificate_pem: str
    """The device's own, expired."""
    csr_pem: str
    """For the new key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A member's new certificate; the old ones stay good until they expire."""

    device: str
    certificate_pem: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """Make the pushed index the next version of a model: POST /v1/models/{model}/versions."""

    version: int
    index: Descriptor
    envelope: dict[str, Any]
    """The DSSE envelope, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One published version of a model."""

    model: str
    version: int
    index: Descriptor
    published_at: datetime
    variants: tuple[str, ...]
    size_bytes: int
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Ask for an enrolment token: POST /v1/tokens."""

    device: str | None = None
    """Only this device may use it; None lets the device name itself."""
    labels: dict[str, str] = field(default_factory=dict)
    valid_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """An enrolment token, shown once."""

    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device as the cloud sees it: the twin's two sides and the labels."""

    device: str
    labels: dict[str, str]
    profile: str
    enrolled_at: datetime
    last_seen_at: datetime | None
    online: bool
    revoked: bool
    desired: DesiredState | None
    reported: ReportedState | None
    telemetry_count: int = 0


class RolloutState(enum.StrEnum):
    """Where a rollout is; the rules are `cloud/rollouts/rules.py`."""

    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"  # a gate said no; nobody further is touched
    COMPLETED = "completed"
    ABORTED = "aborted"  # an operator said no


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """Start a rollout: POST /v1/rollouts."""

    model: str
    version: int | None = None
    """None means the newest."""
    devices: tuple[str, ...] = ()
    """These devices; empty with empty `labels` means all."""
    labels: dict[str, str] = field(default_factory=dict)
    """Devices that carry all of these."""
    waves: tuple[str, ...] = ("1", "25%", "100%")
    """How many devices have been offered the version by the end of each wave: a count or a share of all."""
    success_threshold: float = 1.0
    """Share of a wave that must be running the version before the next one starts, and that must stay reachable."""
    soak_s: float = 0.0
    """How long a wave is watched after its gate is reached."""
    trial_s: float = 60.0
    device_timeout_s: float = 3600.0
    """A device that is online and silent for this long counts as failed."""
    rollback_on_halt: bool = True
    """When a gate says no, return the devices of this rollout to what they ran before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDevice:
    """One device in a rollout."""

    device: str
    wave: int
    desired_number: int | None
    """None until it was offered the version."""
    state: DeploymentState | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A rollout and how far it got."""

    rollout: int
    request: RolloutRequest
    model: str
    version: int
    state: RolloutState
    reason: str
    wave: int
    """The wave that is open now, from 0."""
    created_at: datetime
    changed_at: datetime
    devices: tuple[RolloutDevice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeNumber:
    """How many changes there have been: GET /v1/changes; a page that follows asks with `after` = the last one it saw."""

    number: int
