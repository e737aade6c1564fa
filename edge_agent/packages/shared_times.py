"""Share a benchmark with the devices that have the same machine, inside the worker that fetches.

    ask     for a benchmark job: the result of another device, the right to measure, or neither
    find    ask the cloud: it returns the result of another device, lets this one measure, or lets it wait for the one that does
    offer   sign this device's result with its own key and send it

A result counts only if the device's own cloud signed it, and only for this model, basis and these variants. Where the cloud does
not answer, has no such route or takes too long, the device measures for itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

from edge_agent.identity.device_key import read_key
from edge_agent.identity.identity import Identity
from edge_agent.link.https_client import HttpsRequest
from edge_agent.storage.variant_times import VariantTimes
from edgewright.contracts import wire
from edgewright.contracts.connection.benchmarks import (
    BENCHMARK_TYPE,
    MAX_FINGERPRINT,
    SHARED_BENCHMARK_TYPE,
    BenchmarkAnswer,
    BenchmarkClaim,
    BenchmarkResult,
)
from edgewright.contracts.names import Digest
from edgewright.contracts.signing import TrustedKeys, sign
from edgewright.errors import EdgewrightError, OperationError, SignatureError
from hardware_profiles.detect import Machine

MAX_WAIT_S = 300.0
"""Longest time to wait for the result of another device."""
_PAUSE_S = 2.0
_MAX_REASON = 300

_log = logging.getLogger(__name__)


def fingerprint_of(machine: Machine) -> str:
    """Return a short text that is equal for machines of one kind: part of a digest, architecture, processor and cores."""
    digest = wire.digest_of(wire.encode(machine.fingerprint)).partition(":")[2]
    return f"{digest[:8]} {machine.architecture} {machine.cpu_model or 'unknown'} x{machine.cpu_cores}"[:MAX_FINGERPRINT]


class SharedTimes:
    """Benchmarks of one device's cloud."""

    def __init__(self, state_directory: Path, *, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self._identity = Identity.load(state_directory)
        self._wait_s = min(wait_s, MAX_WAIT_S)
        self._sleep = sleep

    def ask(self, claim: BenchmarkClaim, variants: Set[str]) -> tuple[VariantTimes | None, bool]:
        """Return the times that the cloud has, or None and True if this device must measure.

        Raises:
            SignatureError: the device's own cloud did not sign the times, or they are of something else.
            UnreachableError: the cloud does not answer.
            DeniedError: the device may not measure the model.
        """
        answer = self._ask(claim)
        times = None if answer.envelope is None else self._times(wire.encode(answer.envelope), claim, variants)
        return times, answer.measure

    def find(self, claim: BenchmarkClaim, variants: Set[str]) -> VariantTimes | None:
        """Return the times that another device measured; None if this one must measure."""
        ends_at_s = time.monotonic() + self._wait_s
        try:
            while True:
                answer = self._ask(claim)
                if answer.envelope is not None:
                    return self._times(wire.encode(answer.envelope), claim, variants)
                if answer.measure or time.monotonic() >= ends_at_s:
                    return None
                self._sleep(_PAUSE_S)
        except EdgewrightError as error:
            _log.info("no shared benchmark model=%s reason=%r", claim.model, str(error))
            return None

    def offer(self, claim: BenchmarkClaim, times: VariantTimes) -> None:
        """Sign and send times that this device has measured; a failure is logged only, because the times count here."""
        try:
            self.send(claim, times)
        except EdgewrightError as error:
            _log.info("benchmark not shared model=%s reason=%r", claim.model, str(error))

    def send(self, claim: BenchmarkClaim, times: VariantTimes) -> None:
        """Sign and send times that this device has measured.

        Raises:
            OperationError: the device's key is missing or damaged.
            ConflictError: the device does not hold the claim.
            UnreachableError: the cloud does not answer.
        """
        result = BenchmarkResult(
            device=self._identity.device,
            model=claim.model,
            version=times.version,
            basis=claim.basis,
            fingerprint=claim.fingerprint,
            measured_at=times.measured_at,
            fastest=times.fastest,
            median_ms=times.median_ms,
            failures={variant: reason[:_MAX_REASON] for variant, reason in times.failures.items()},
            job=claim.job,
        )
        key = read_key(self._identity.credentials)
        if key is None:
            raise OperationError(f"{self._identity.key} must be the device's key, but it is missing or damaged")
        self._send("/v1/device/benchmarks", sign(wire.encode(result), BENCHMARK_TYPE, key))

    def release(self, claim: BenchmarkClaim) -> None:
        """Give the claim back, because this device could not measure; a failure is logged only, because a claim expires."""
        try:
            self._ask(replace(claim, release=True))
        except EdgewrightError as error:
            _log.info("benchmark claim not released model=%s reason=%r", claim.model, str(error))

    def _ask(self, claim: BenchmarkClaim) -> BenchmarkAnswer:
        raw = self._send("/v1/device/benchmarks/claim", wire.encode(claim))
        return wire.decode(raw, BenchmarkAnswer, what="the answer to a benchmark claim")

    def _send(self, path: str, body: bytes) -> bytes:
        return HttpsRequest(self._identity.url, self._identity.tls_context()).send("POST", path, body).body

    def _times(self, envelope: bytes, claim: BenchmarkClaim, variants: Set[str]) -> VariantTimes:
        """Return the times in an envelope.

        Raises:
            SignatureError: the device's own cloud did not sign it, or it is for another model, basis or set of variants.
        """
        payload = TrustedKeys.from_pem([self._identity.enrolment.response.cloud_key_pem]).verify(envelope, SHARED_BENCHMARK_TYPE)
        result = wire.decode(payload, BenchmarkResult, what="the shared benchmark")
        if (result.model, result.basis) != (claim.model, claim.basis):
            raise SignatureError(f"the benchmark must be of {claim.model} on {claim.basis}, not {result.model} on {result.basis}")
        if {*result.median_ms, *result.failures} != variants:
            names = ", ".join(sorted(variants))
            raise SignatureError(f"the benchmark must be of {names}, not of {', '.join({*result.median_ms, *result.failures})}")
        return VariantTimes(
            model=result.model,
            version=result.version,
            measured_at=result.measured_at,
            basis=Digest(result.basis),
            fastest=result.fastest,
            median_ms=result.median_ms,
            failures=result.failures,
            measured_by="" if result.device == self._identity.device else result.device,
        )
