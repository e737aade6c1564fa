"""What the device tells its cloud: a report on every change and every minute, and the telemetry queue."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime

from edge_agent.deployment.journal import Deployment, Journal
from edge_agent.link.connection import Connection
from edge_agent.scoring.supervisor import Supervisor
from edge_agent.settings import Settings
from edge_agent.storage.store import SlotRecord
from edge_agent.telemetry.metrics import read_metrics
from edge_agent.telemetry.outbox import Outbox, decode_ack
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.messages import ReportedState
from edgewright.errors import EdgewrightError, StorageFullError

_log = logging.getLogger(__name__)

ACK_TIMEOUT_S = 30.0


def compose(
    deployment: Deployment | None,
    running: SlotRecord | None,
    *,
    device: str,
    profile: str,
    boot_id: str,
    sequence: int,
    hindrance: str | None = None,
) -> ReportedState:
    """Put into words where the device is; `hindrance` is what keeps it from storing its next step."""
    reason = deployment.reason if deployment else "no version was wished yet"
    return ReportedState(
        device=device,
        desired_number=deployment.desired.desired_number if deployment else 0,
        state=deployment.state if deployment else None,
        reason=hindrance or reason,
        since=deployment.since if deployment else datetime.now(UTC),
        attempt=deployment.attempt if deployment else 1,
        next_retry_at=deployment.retry_at if deployment else None,
        running=running.running if running else None,
        profile=profile,
        agent_version=__version__,
        boot_id=boot_id,
        sequence=sequence,
        bytes_pulled=deployment.bytes_pulled if deployment else 0,
        choice=deployment.choice if deployment else (),
    )


class Reporter:
    """Sends reports and telemetry over the connection."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        supervisor: Supervisor,
        connection: Connection,
        outbox: Outbox,
        *,
        device: str,
        profile: str,
        boot_id: str,
    ) -> None:
        self.hindrance: str | None = None
        self._settings = settings
        self._journal = journal
        self._supervisor = supervisor
        self._connection = connection
        self._outbox = outbox
        self._device = device
        self._profile = profile
        self._boot_id = boot_id
        self._sequence = 0
        self._changed = asyncio.Event()
        self._acknowledged = asyncio.Event()

    def changed(self) -> None:
        """Ask for a report soon."""
        self._changed.set()

    def acknowledged(self, raw: bytes) -> None:
        """Take in what the cloud has stored of the telemetry."""
        try:
            self._outbox.acknowledge(decode_ack(raw))
        except EdgewrightError as wrong:
            _log.warning("ignored acknowledgement reason=%r", str(wrong))
        self._acknowledged.set()

    async def report_always(self) -> None:
        """Report on every change and every so often; a report that does not get through is made anew, not sent again."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.report_every_s):
                    await self._changed.wait()
            self._changed.clear()
            if not self._connection.is_online:
                continue  # connecting is a change
            try:
                await self._connection.report(wire.encode(self._compose()))
            except EdgewrightError as failed:
                _log.info("not reported reason=%r", str(failed))
                await asyncio.sleep(self._settings.retry_base_s)
                self._changed.set()

    async def measure_always(self) -> None:
        """Queue measurements every so often, in reach of the cloud or not."""
        while True:
            await asyncio.sleep(self._settings.measure_every_s)
            running = self._supervisor.running
            labels = {"model": running.running.model, "version": str(running.running.version)} if running else {}
            try:
                readings = read_metrics(
                    runner_pid=self._supervisor.runner_pid,
                    scoring=self._supervisor.scoring,
                    dropped=self._outbox.dropped(),
                    labels=labels,
                )
                self._outbox.put(readings)
            except (StorageFullError, sqlite3.DatabaseError) as failed:
                _log.warning("not queued reason=%r", str(failed))

    async def deliver_always(self) -> None:
        """Send the queue, a batch at a time; the next one goes when this one is acknowledged."""
        while True:
            batch = self._outbox.batch() if self._connection.is_online else None
            if batch is None:
                await asyncio.sleep(min(1.0, self._settings.measure_every_s))
                continue
            self._acknowledged.clear()
            try:
                await self._connection.telemetry(wire.encode(batch))
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    await self._acknowledged.wait()
            except (EdgewrightError, TimeoutError) as failed:
                _log.info("not delivered count=%d reason=%r", len(batch.measurements), str(failed) or "no acknowledgement")
                await asyncio.sleep(self._settings.retry_base_s)

    def _compose(self) -> ReportedState:
        self._sequence += 1
        return compose(
            self._journal.current(),
            self._supervisor.running,
            device=self._device,
            profile=self._profile,
            boot_id=self._boot_id,
            sequence=self._sequence,
            hindrance=self.hindrance,
        )
