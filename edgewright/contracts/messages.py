"""Messages between cloud, devices and clients; the bodies are the same over MQTT and HTTPS.

Instants are aware UTC. A reader ignores unknown fields, so that either side can add fields.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from edgewright.contracts.connection.benchmark_call import BenchmarkCall
from edgewright.contracts.models.registration import Registration, SourceFile
from edgewright.contracts.names import check_digest, check_instant, check_name
from edgewright.contracts.oci import Descriptor
from edgewright.errors import MessageError


class DeploymentState(enum.StrEnum):
    """Progress of a device with one desired state; the transitions are in `edge_agent/deployment/states.py`."""

    OFFERED = "offered"  # set by the cloud: no report yet
    ACCEPTED = "accepted"
    FETCHING = "fetching"
    VERIFIED = "verified"
    STAGED = "staged"
    SWITCHING = "switching"
    TRIAL = "trial"
    RUNNING = "running"
    ROLLING_BACK = "rolling_back"
    REFUSED = "refused"  # never ran: failed a check before the switch
    ROLLED_BACK = "rolled_back"  # failed its trial; the last good version runs again
    FAILED = "failed"  # could not be fetched or started within its attempts
    SUPERSEDED = "superseded"  # a newer desired state arrived first

    @property
    def is_final(self) -> bool:
        """Return True if the device has finished this desired state."""
        return self in _FINAL

    @property
    def is_failure(self) -> bool:
        """Return True if the device ended without running the desired version."""
        return self in _FAILURES


_FAILURES = frozenset({DeploymentState.REFUSED, DeploymentState.ROLLED_BACK, DeploymentState.FAILED})
_FINAL = _FAILURES | {DeploymentState.RUNNING, DeploymentState.SUPERSEDED}


class FailureCause(enum.StrEnum):
    """Cause of a failure on a device; only `PACKAGE` is evidence against the version on other devices."""

    PACKAGE = "package"  # the files, the signed content or the measured behaviour of the version
    DEVICE = "device"  # damage at rest, a full disk, a killed process, a missing backend, a wrong clock
    TRUST = "trust"  # a signature that this device does not accept: an unknown key, an expired signature
    NETWORK = "network"  # the cloud or the registry could not be reached, or a transfer failed
    CALLER = "caller"  # the request itself: a forbidden downgrade, a number below the last one


IMPORTED_FROM = 1_000_000_000
"""Lowest desired number of a package that was imported on the device; the numbers of the cloud are lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """Desired state of a workload of one device: the payload of a DSSE envelope that is signed by the cloud's own key.

    The payload is the state that changed last; `workloads` names every workload of the device. `desired_number` always
    increases. For a rollback `version` decreases, and `allow_downgrade` is true.
    """

    device: str
    desired_number: int
    model: str
    version: int
    index: Descriptor
    allow_downgrade: bool = False
    trial_s: float = 60.0
    """Trial period that the new version must pass before it is committed."""
    device_timeout_s: float = 3600.0
    """Longest time from accepting to running, while the device is online."""
    workload: str = ""
    """Name of the workload, unique on the device; the model's name unless another one is given."""
    workloads: tuple[DesiredState, ...] | None = None
    """Every workload of the device, each under the number of its last change; a workload that is missing is removed.

    None if this is the only workload, as it is for a cloud that knows one per device.
    """

    def __post_init__(self) -> None:
        check_name(self.device, "device")
        check_name(self.model, "model")
        if not self.workload:
            object.__setattr__(self, "workload", self.model)
        check_name(self.workload, "workload")
        self._check_workloads()
        if self.desired_number < 1 or self.version < 1:
            raise MessageError(f"versions must be whole numbers from 1, not {self.desired_number} and {self.version}")
        if self.trial_s < 0 or self.device_timeout_s <= 0:
            raise MessageError(
                f"trial_s must be 0 or more and device_timeout_s positive, not {self.trial_s}, {self.device_timeout_s}"
            )

    @property
    def is_imported(self) -> bool:
        """True if the device itself made the state, from a package that was imported on it."""
        return self.desired_number >= IMPORTED_FROM

    @property
    def every_workload(self) -> tuple[DesiredState, ...]:
        """The desired state of every workload of the device."""
        return (self,) if self.workloads is None else self.workloads

    def of(self, workload: str) -> DesiredState | None:
        """Return the desired state of a workload; None if the device is not to have it."""
        return next((each for each in self.every_workload if each.workload == workload), None)

    def _check_workloads(self) -> None:
        each = self.workloads or ()
        if len({one.workload for one in each}) < len(each) or len({one.desired_number for one in each}) < len(each):
            raise MessageError("workloads must have a name and a desired_number of their own, but two of them share one")
        for one in each:
            if one.device != self.device or one.desired_number > self.desired_number or one.workloads is not None:
                raise MessageError(
                    f"workload {one.workload} must be of {self.device}, under a number up to {self.desired_number}, without "
                    f"workloads of its own, but it is of {one.device}, under {one.desired_number}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningVariant:
    """The variant that a device scores with."""

    model: str
    version: int
    index_digest: str
    variant: str
    backend: str
    precision: str

    def __post_init__(self) -> None:
        check_digest(self.index_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedWorkload:
    """Reported state of one workload: the current step, its reason and start time, and the next attempt."""

    workload: str
    desired_number: int
    """The number of the desired state that `state` is about."""
    state: DeploymentState | None
    reason: str
    since: datetime
    attempt: int = 1
    next_retry_at: datetime | None = None
    running: RunningVariant | None = None
    bytes_pulled: int = 0
    choice: tuple[str, ...] = ()
    cause: FailureCause | None = None

    def __post_init__(self) -> None:
        check_name(self.workload, "workload")
        check_instant(self.since, "since")
        check_instant(self.next_retry_at, "next_retry_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedState:
    """Reported state of a device; the fields of a workload are those of the one that changed last."""

    device: str
    desired_number: int
    """The number of the desired state that `state` is about; 0 before the first."""
    state: DeploymentState | None
    """None before the first desired state."""
    reason: str
    since: datetime
    attempt: int = 1
    next_retry_at: datetime | None = None
    running: RunningVariant | None = None
    profile: str = ""
    agent_version: str = ""
    boot_id: str = ""
    sequence: int = 0
    """Rises with every report of a device, so that an outdated report is recognised."""
    bytes_pulled: int = 0
    """Bytes fetched from the registry for `desired_number`, over all attempts."""
    choice: tuple[str, ...] = ()
    """Why this variant: one sentence per variant of the package."""
    cause: FailureCause | None = None
    """Cause of a failed or degraded state; None without a failure, or from an agent that does not classify failures."""
    workloads: tuple[ReportedWorkload, ...] | None = None
    """Every workload of the device; None from an agent that knows one per device."""

    def __post_init__(self) -> None:
        check_instant(self.since, "since")
        check_instant(self.next_retry_at, "next_retry_at")

    def of(self, workload: str) -> ReportedWorkload | None:
        """Return the report of a workload; an agent that knows one per device reports on that one, however it is named."""
        if self.workloads is not None:
            return next((each for each in self.workloads if each.workload == workload), None)
        return ReportedWorkload(
            workload=workload,
            desired_number=self.desired_number,
            state=self.state,
            reason=self.reason,
            since=self.since,
            attempt=self.attempt,
            next_retry_at=self.next_retry_at,
            running=self.running,
            bytes_pulled=self.bytes_pulled,
            choice=self.choice,
            cause=self.cause,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measurement; `sequence` increases by one per device and queue, without gaps, so that losses can be counted."""

    sequence: int
    at: datetime
    name: str
    value: float
    unit: str
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_instant(self.at, "at")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryBatch:
    """Measurements in the order of their sequence; `queue_id` changes when a device starts a new queue."""

    device: str
    queue_id: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryAck:
    """Acknowledgement that all measurements up to and including `sequence` are stored; the device may delete them."""

    queue_id: str
    sequence: int
    benchmark: BenchmarkCall | None = None
    """Benchmark job for the device; None ends one that it works on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMeasurement(Measurement):
    """A measurement as the cloud stores it: GET /v1/telemetry returns a list of these."""

    device: str
    queue_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryQueue:
    """A queue of a device, and the number of its newest measurement: GET /v1/telemetry/queues returns a list of these."""

    device: str
    queue_id: str
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Connection of a device to the broker."""

    online: bool
    boot_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One published version of a model."""

    model: str
    version: int
    index: Descriptor
    published_at: datetime
    variants: tuple[str, ...]
    """Empty for a version that holds source files only."""
    size_bytes: int
    key_id: str
    """Key of the publisher; empty for a version that was registered."""
    registration: Registration | None = None
    files: tuple[SourceFile, ...] = ()
    """Registered source files."""
    source_version: int | None = None
    """The registered version that the package was made from; its files are part of this version, too."""
    source_manifest: str | None = None
    """Digest of the manifest of source files; None without any."""
    golden: tuple[SourceFile, ...] = ()
    """The sample that the model was run on when it was registered: its inputs, then its outputs."""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """The cloud's record of a device: desired state, reported state and labels."""

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
    identity_shared_at: datetime | None = None
    """When two agents were last seen to use the identity of this device in turns; None if never."""


class RolloutState(enum.StrEnum):
    """State of a rollout; the rules are in `cloud/rollouts/rules.py`."""

    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"  # a gate failed; no further device is changed
    COMPLETED = "completed"
    ABORTED = "aborted"  # by an operator


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """Request to start a rollout: POST /v1/rollouts."""

    model: str
    version: int | None = None
    """None means the newest."""
    devices: tuple[str, ...] = ()
    """The devices; empty together with `labels` means all."""
    labels: dict[str, str] = field(default_factory=dict)
    """Only devices that have all of these labels."""
    waves: tuple[str, ...] = ("1", "25%", "100%")
    """Devices that have been offered the version by the end of each wave: a count, or a share of all."""
    success_threshold: float = 1.0
    """Share of a wave that must be running the version before the next one starts, and that must stay reachable."""
    soak_s: float = 0.0
    """Time that a wave is watched after its gate is reached."""
    trial_s: float = 60.0
    device_timeout_s: float = 3600.0
    """A device that is online and silent for this long counts as failed."""
    rollback_on_halt: bool = True
    """If a gate fails, restore the previous version on the devices of this rollout."""
    workload: str = ""
    """Workload that gets the version, the device's other ones stay as they are; the model's name unless another is given."""

    @property
    def workload_name(self) -> str:
        """The name of the workload."""
        return self.workload or self.model


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
    """A rollout and its progress."""

    rollout: int
    request: RolloutRequest
    model: str
    version: int
    state: RolloutState
    reason: str
    wave: int
    """The current wave, from 0."""
    created_at: datetime
    changed_at: datetime
    devices: tuple[RolloutDevice, ...]
    workload: str = ""
    """The workload that gets the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeNumber:
    """Number of changes so far: GET /v1/changes; a client that follows changes sends the last number as `after`."""

    number: int
