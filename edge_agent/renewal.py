"""When the device's certificate is renewed: at two thirds of its life, each device of a fleet a little later than that.

    due_in_s   pure: how long until the certificate is due
    Renewer    looks at the start and once a day, has a worker renew (`certificate.py`), and has the connection begin anew

A wrong clock must neither lock the device out nor make it ask the cloud again and again. So the age of a certificate is taken
from the clock that stamped its arrival, and only where that clock was set back since then are the certificate's own dates asked;
either way a new certificate is new. Pauses are counted on the monotonic clock.
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
from edge_agent.state_directory import House
from edge_agent.workers.orders import RenewalOrder
from edge_agent.workers.worker import Failure, WorkerResult, run_worker
from edgewright.errors import StorageFullError

_log = logging.getLogger(__name__)

RENEW_TIMEOUT_S = 120.0
LONGEST_RETRY_S = 3600.0
SHORTEST_PAUSE_S = 1.0
_RENEW_AT = 2 / 3
_SPREAD = 1 / 12
"""Share of its life over which the devices of a fleet are spread."""


def due_in_s(validity: Validity | None, device: str, now: datetime) -> float:
    """Return how long until the certificate is to be renewed, 0 or less when it is time; what is not known is due."""
    if validity is None:
        return 0.0
    life = validity.not_after - validity.not_before
    due_after = life * (_RENEW_AT + _SPREAD * spread(device))
    was_set_back = now < validity.obtained_at
    began_at = validity.not_before if was_set_back else validity.obtained_at
    return (began_at + due_after - now) / timedelta(seconds=1)


def spread(device: str) -> float:
    """Return where between 0 and 1 a device lies: the same one at every start, and evenly over a fleet."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") / 2**64


class Renewer:
    """Keeps the certificate of one device fresh."""

    def __init__(self, house: House, settings: Settings, connection: Connection, remember: Callable[[str, str], None]) -> None:
        self._house = house
        self._settings = settings
        self._connection = connection
        self._remember = remember
        self._problem = ""

    async def keep(self) -> None:
        """Renew whenever it is time, for ever."""
        failures = 0
        while True:
            identity = self._house.identity
            wait_s = due_in_s(identity.validity(), identity.device, datetime.now(UTC))
            if wait_s > 0:
                await asyncio.sleep(min(self._settings.renewal_check_s, max(SHORTEST_PAUSE_S, wait_s)))
                continue
            failure = await self._renew()
            failures = 0 if failure is None else failures + 1
            await asyncio.sleep(self._pause_s(failure, failures))

    async def _renew(self) -> Failure | None:
        """Have a worker renew; return how that failed, None when there is a new certificate, whoever got it."""
        identity, before = self._house.identity, self._house.identity.slot.name
        order = RenewalOrder(state_directory=str(self._house.path), slot=before)
        answer = await run_worker("edge_agent.identity.certificate", order, timeout_s=RENEW_TIMEOUT_S)
        if identity.slot.name == before:
            self._tell_failure(answer)
            return answer.failure or Failure.FAILED
        _log.info("renewed slot=%s told=%r", identity.slot.name, answer.reason)
        self._problem = ""
        self._note("renew", answer.reason)
        self._connection.begin_anew("the certificate was renewed")
        return None

    def _tell_failure(self, answer: WorkerResult) -> None:
        """Log every failure; the history keeps one line for one reason."""
        _log.warning("not renewed reason=%r", answer.reason)
        if answer.reason != self._problem:
            self._problem = answer.reason
            self._note("not_renewed", answer.reason)

    def _note(self, event: str, reason: str) -> None:
        with suppress(StorageFullError):
            self._remember(event, reason)

    def _pause_s(self, failure: Failure | None, failures: int) -> float:
        """A refusal is asked about again with the next look; what may pass by itself sooner, ever later, and at odd moments."""
        if failure is None:
            return SHORTEST_PAUSE_S
        longest_s = min(LONGEST_RETRY_S, self._settings.renewal_check_s)
        if failure is Failure.REFUSED:
            return self._settings.renewal_check_s
        return SHORTEST_PAUSE_S + full_jitter_s(failures, self._settings.renewal_retry_s, longest_s)
