"""Queue of the desired states that the cloud sends; a worker process verifies them one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge_agent.deployment.journal import Journal
from edge_agent.workers.requests import VerifyRequest
from edge_agent.workers.worker import Failure, run_worker
from edgewright.contracts.messages import DesiredState
from edgewright.errors import StorageFullError

_log = logging.getLogger(__name__)

VERIFY_TIMEOUT_S = 60.0


class DesiredInbox:
    """Receiver of signed desired states."""

    def __init__(self, state_directory: Path, journal: Journal, retry_s: float, take: Callable[[DesiredState], None]) -> None:
        self._newest: DesiredState | None = journal.device_desired()
        self._state_directory = state_directory
        self._journal = journal
        self._retry_s = retry_s
        self._take = take
        """Called with each verified desired state of the device."""
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._last_verified: bytes | None = None

    @property
    def highest_number(self) -> int:
        """The number of the newest verified desired state; 0 before the first one.

        If only the deployments are known, the newest state is asked for once more, because other workloads may be in it.
        """
        if self._newest is not None:
            return self._newest.desired_number
        return max(0, self._journal.highest_number(imported=False) - 1)

    def receive(self, envelope: bytes) -> None:
        """Queue an envelope for verification, except for a repetition of the last one."""
        if envelope != self._last_verified:
            self._queue.put_nowait(envelope)

    async def verify_forever(self) -> None:
        """Verify queued desired states one at a time; rejected ones are recorded and ignored."""
        while True:
            envelope = await self._queue.get()
            if envelope == self._last_verified:
                continue
            request = VerifyRequest(
                state_directory=str(self._state_directory), envelope=envelope, accepted_number=self.highest_number
            )
            result = await run_worker("edge_agent.deployment.verify_desired", request, timeout_s=VERIFY_TIMEOUT_S)
            if result.desired is not None:
                try:
                    self._verified(result.desired)
                except StorageFullError as error:
                    _log.warning("could not take desired state reason=%r", str(error))
                    await asyncio.sleep(self._retry_s)
                    self._queue.put_nowait(envelope)
                    continue
            elif result.failure is Failure.REFUSED:
                self._reject(result.reason)
            elif result.failure is not None:  # the worker failed, which proves nothing about the envelope
                _log.warning("could not verify desired state reason=%r", result.reason)
                await asyncio.sleep(self._retry_s)
                self._queue.put_nowait(envelope)
                continue
            self._last_verified = envelope

    def _verified(self, desired: DesiredState) -> None:
        _log.info(
            "verified desired state desired_number=%d workloads=%s",
            desired.desired_number,
            ",".join(f"{one.workload}={one.model}:{one.version}" for one in desired.every_workload),
        )
        self._take(desired)
        self._newest = desired

    def _reject(self, reason: str) -> None:
        _log.warning("rejected desired state reason=%r", reason)
        with suppress(StorageFullError):
            self._journal.record("reject_desired", reason)
