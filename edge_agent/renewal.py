"""Renew the device's certificate after two thirds of its lifetime, plus a delay that differs between the devices of a fleet.

    due_in_s   pure rule: seconds until the renewal is due
    Renewer    checks at the start and once a day, lets a worker renew (`certificate.py`) and reconnects

A wrong clock must not lock the device out or cause repeated renewals. The age of a certificate is therefore measured on the
device's clock, which stamped its arrival. If that clock was set back since then, the certificate's own dates are used. Pauses use
the monotonic clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from edge_agent.backoff import full_jitter_s
from edge_agent.identity.identity import Validity
from edge_agent.link.connection import Connection
from edge_agent.settings import Settings
from edge_agent.state_directory import StateDirectory
from edge_agent.workers.requests import RenewRequest
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.errors import StorageFullError

_log = logging.getLogger(__name__)

RENEW_TIMEOUT_S = 120.0
LONGEST_RETRY_S = 3600.0
SHORTEST_PAUSE_S = 1.0
_RENEW_AT = 2 / 3
_SPREAD = 1 / 12
"""Share of the lifetime over which the renewals of a fleet are spread."""


def due_in_s(validity: Validity | None, device: str, now: datetime) -> float:
    """Return the seconds until the renewal of a certificate; 0 or less if it is due or its validity is unknown."""
    if validity is None:
        return 0.0
    lifetime = validity.not_after - validity.not_before
    due_after = lifetime * (_RENEW_AT + _SPREAD * spread(device))
    was_set_back = now < validity.obtained_at
    began_at = validity.not_before if was_set_back else validity.obtained_at
    return (began_at + due_after - now) / timedelta(seconds=1)


def spread(device: str) -> float:
    """Return a number between 0 and 1 that is constant for a device and uniform over a fleet."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") / 2**64


class Renewer:
    """Periodic renewal of the certificate of one device."""

    def __init__(
        self,
        directory: StateDirectory,
        settings: Settings,
        connection: Connection,
        record_event: Callable[[str, str], None],
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._connection = connection
        self._record_event = record_event
        self._last_problem = ""

    async def run_forever(self) -> None:
        """Renew whenever a renewal is due, forever."""
        failures = 0
        while True:
            identity = self._directory.identity
            wait_s = due_in_s(identity.validity(), identity.device, datetime.now(UTC))
            if wait_s > 0:
                await asyncio.sleep(min(self._settings.renewal_check_s, max(SHORTEST_PAUSE_S, wait_s)))
                continue
            failure = await self._renew()
            failures = 0 if failure is None else failures + 1
            await asyncio.sleep(self._pause_s(failure, failures))

    async def _renew(self) -> Failure | None:
        """Return the failure, or None if the certificate was renewed (by this worker or an earlier one)."""
        identity, before = self._directory.identity, self._directory.identity.credentials.name
        request = RenewRequest(state_directory=str(self._directory.path), credentials=before)
        result = await run_worker("edge_agent.identity.certificate", request, timeout_s=RENEW_TIMEOUT_S)
        if identity.credentials.name == before:
            self._log_failure(result)
            return result.failure or Failure.FAILED
        _log.info("renewed certificate credentials=%s result=%r", identity.credentials.name, result.reason)
        self._last_problem = ""
        self._record("renew", result.reason)
        self._connection.reconnect("the certificate was renewed")
        return None

    def _log_failure(self, result: WorkerResult) -> None:
        """Log every failure; the history keeps one entry for repetitions of the same reason."""
        _log.warning("could not renew certificate reason=%r", result.reason)
        if result.reason != self._last_problem:
            self._last_problem = result.reason
            self._record("renewal_failed", result.reason)

    def _record(self, event: str, reason: str) -> None:
        with suppress(StorageFullError):
            self._record_event(event, reason)

    def _pause_s(self, failure: Failure | None, failures: int) -> float:
        """Return the pause before the next check: long after a refusal, short with back-off and jitter after other failures."""
        if failure is None:
            return SHORTEST_PAUSE_S
        longest_s = min(LONGEST_RETRY_S, self._settings.renewal_check_s)
        if failure is Failure.REFUSED:
            return self._settings.renewal_check_s
        return SHORTEST_PAUSE_S + full_jitter_s(failures, self._settings.renewal_retry_s, longest_s)
