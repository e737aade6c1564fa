"""Messages by which devices with the same kind of machine share one benchmark of a model's variants.

BenchmarkClaim     a device asks before it measures: POST /v1/device/benchmarks/claim
BenchmarkAnswer    it gets the result, is told to measure, or waits while another device measures
BenchmarkResult    the measuring device signs it with its own key, and the cloud with its key for the other devices
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgewright.contracts.names import check_digest, check_instant, check_name
from edgewright.contracts.signing import Envelope
from edgewright.errors import MessageError

BENCHMARK_TYPE = "application/vnd.edgewright.benchmark.v1+json"
"""Payload type of a result that a device signed."""
SHARED_BENCHMARK_TYPE = "application/vnd.edgewright.shared-benchmark.v1+json"
"""Payload type of a result that the cloud signed."""
MAX_FINGERPRINT = 255
MAX_VARIANTS = 64
MAX_JOB = 999_999_999
_MAX_MS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkClaim:
    """Request for the result of a model on a basis, or for the right to measure it."""

    model: str
    basis: str
    """Digest of all that the times depend on: variants, machine, versions of the backends, threads."""
    fingerprint: str
    """Machine of the device, for display."""
    release: bool = False
    """True to give the claim back, because the device could not measure."""
    job: int | None = None
    """Benchmark job that asks for the result; None if the device measures to choose a variant."""

    def __post_init__(self) -> None:
        check_name(self.model, "model")
        check_digest(self.basis)
        if not 0 < len(self.fingerprint) <= MAX_FINGERPRINT:
            raise MessageError(f"fingerprint must have 1 to {MAX_FINGERPRINT} characters, not {len(self.fingerprint)}")
        if self.job is not None and not 0 < self.job <= MAX_JOB:
            raise MessageError(f"job must be a number from 1 to {MAX_JOB}, not {self.job}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkAnswer:
    """Answer to a claim; neither a result nor `measure` means that another device measures: ask again."""

    measure: bool = False
    """True if the device must measure and send its result."""
    envelope: Envelope | None = None
    """The result, signed by the cloud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """Times of the variants of a model on one device: milliseconds per sample."""

    device: str
    """The device that measured."""
    model: str
    version: int
    basis: str
    fingerprint: str
    measured_at: datetime
    fastest: str
    median_ms: dict[str, float]
    failures: dict[str, str]
    """Reasons why other fitting variants have no time."""
    job: int | None = None
    """Benchmark job that asked for the result."""

    def __post_init__(self) -> None:
        check_name(self.device, "device")
        BenchmarkClaim(model=self.model, basis=self.basis, fingerprint=self.fingerprint, job=self.job)
        check_instant(self.measured_at, "measured_at")
        if self.version < 1 or len(self.median_ms) + len(self.failures) > MAX_VARIANTS:
            raise MessageError(
                f"a benchmark must be of a version from 1 and of at most {MAX_VARIANTS} variants, "
                f"not of version {self.version} and {len(self.median_ms) + len(self.failures)} variants"
            )
        if self.fastest not in self.median_ms:
            raise MessageError(f"the fastest variant must have a measured time, but {self.fastest[:64]!r} has none")
        if any(not 0 < each_ms <= _MAX_MS for each_ms in self.median_ms.values()):
            raise MessageError(f"a measured time must be over 0 and at most {_MAX_MS:g} ms")
