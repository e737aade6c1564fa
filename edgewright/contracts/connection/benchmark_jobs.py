"""Messages of benchmark jobs: an operator lets devices measure the variants of a model version on their own hardware.

BenchmarkJobRequest   the operator's request: POST /v1/benchmark-jobs
BenchmarkJobRecord    a job with its devices and their results
BenchmarkOrder        the job for one device, which asks for it after the acknowledgement of telemetry named the job
BenchmarkProgress     the device waits for another one, has finished, or has failed
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from edgewright.contracts.connection.benchmarks import BenchmarkResult
from edgewright.contracts.names import check_digest, check_name
from edgewright.contracts.oci import Descriptor
from edgewright.errors import MessageError

MAX_BUDGET_S = 24 * 3600.0
MAX_REASON = 1000


class JobState(enum.StrEnum):
    """State of a benchmark job on one device."""

    WAITING = "waiting"  # not started: offline, in a rollout, or another device with the same machine measures
    MEASURING = "measuring"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """Return True if the device does no more for the job."""
        return self not in OPEN_STATES


OPEN_STATES = (JobState.WAITING, JobState.MEASURING)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkJobRequest:
    """Request to measure the fitting variants of a version: on the named devices, else on those with the labels, else on all."""

    model: str
    version: int | None = None
    """None for the newest version."""
    devices: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    budget_bytes: int | None = None
    """Most bytes that one device pulls; None for no limit. Variants over it are left out."""
    budget_s: float = 600.0
    """Longest time in which one device pulls and measures."""
    again: bool = False
    """True to measure on machines that have results already."""
    wait_for_offline: bool = False
    """True to accept named devices that are offline: they start when they connect."""

    def __post_init__(self) -> None:
        check_name(self.model, "model")
        if not 0 < self.budget_s <= MAX_BUDGET_S:
            raise MessageError(f"the time budget must be over 0 and at most {MAX_BUDGET_S:.0f} s, not {self.budget_s:g} s")
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise MessageError(f"the byte budget must be over 0, not {self.budget_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOrder:
    """A job as its device gets it: POST /v1/device/benchmark-jobs/{job}/start."""

    job: int
    model: str
    version: int
    index: Descriptor
    budget_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProgress:
    """Progress of a device with a job: POST /v1/device/benchmark-jobs/{job}/progress."""

    state: JobState
    reason: str
    basis: str | None = None
    """Key of the result, with the model: digest of variants, machine, versions of the backends, threads."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Reason by name for each fitting variant that is not part of the result."""

    def __post_init__(self) -> None:
        if self.basis is not None:
            check_digest(self.basis)
        if (self.state is JobState.DONE) != (self.basis is not None):
            raise MessageError("a device must name the basis of its result exactly when it is done")
        if self.state in (JobState.MEASURING, JobState.CANCELED) or len(self.reason) > MAX_REASON:
            raise MessageError(f"a device must report waiting, done or failed, with at most {MAX_REASON} characters of reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkJobDevice:
    """A device of a job."""

    device: str
    state: JobState
    reason: str
    online: bool
    left_out: dict[str, str] = field(default_factory=dict)
    result: BenchmarkResult | None = None
    """Times of the device's kind of machine; `result.device` measured them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkJobRecord:
    """A benchmark job with its devices, sorted by name."""

    job: int
    model: str
    version: int
    created_at: datetime
    again: bool
    budget_bytes: int | None
    budget_s: float
    devices: tuple[BenchmarkJobDevice, ...]

    @property
    def is_finished(self) -> bool:
        """Return True if no device does more for the job."""
        return all(each.state.is_final for each in self.devices)

    @property
    def only_waits_for_offline(self) -> bool:
        """Return True if all devices that the job waits for are offline."""
        return all(each.state.is_final or not each.online for each in self.devices)
