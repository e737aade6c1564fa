"""Telemetry: read metrics of the agent, the machine and the runner, queue them on disk and send them in batches."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterable
from contextlib import suppress

import psutil

from edge_agent.deployment.workload import Workload
from edge_agent.link.connection import Connection
from edge_agent.settings import Settings
from edge_agent.telemetry.outbox import Acknowledgements, Outbox, Reading
from edgewright.contracts import wire
from edgewright.errors import EdgewrightError, StorageFullError

_log = logging.getLogger(__name__)

ACKNOWLEDGEMENT_TIMEOUT_S = 30.0


class TelemetrySender:
    """Periodic measurement and delivery of telemetry."""

    def __init__(
        self,
        settings: Settings,
        workloads: Iterable[Workload],
        connection: Connection,
        outbox: Outbox,
        acknowledgements: Acknowledgements,
    ) -> None:
        self._settings = settings
        self._workloads = workloads
        self._connection = connection
        self._outbox = outbox
        self._acknowledgements = acknowledgements

    async def measure_forever(self) -> None:
        """Queue measurements at a fixed interval, online or offline."""
        while True:
            await asyncio.sleep(self._settings.measure_every_s)
            try:
                readings = read_device_metrics(dropped=self._outbox.dropped())
                for workload in self._workloads:
                    readings += read_workload_metrics(workload)
                self._outbox.put(readings)
            except (StorageFullError, sqlite3.DatabaseError) as error:
                _log.warning("could not queue measurements reason=%r", str(error))

    async def deliver_forever(self) -> None:
        """Send the queue in batches, the next one after the acknowledgement of the last."""
        while True:
            batch = self._outbox.batch() if self._connection.is_online else None
            if batch is None:
                await asyncio.sleep(min(1.0, self._settings.measure_every_s))
                continue
            self._acknowledgements.clear()
            try:
                await self._connection.telemetry(wire.encode(batch))
                async with asyncio.timeout(ACKNOWLEDGEMENT_TIMEOUT_S):
                    await self._acknowledgements.wait()
            except (EdgewrightError, TimeoutError) as error:
                reason = str(error) or "no acknowledgement"
                _log.info("could not deliver telemetry count=%d reason=%r", len(batch.measurements), reason)
                await asyncio.sleep(self._settings.retry_base_s)


def read_device_metrics(*, dropped: int) -> list[Reading]:
    """Return the current readings of the machine and of the agent."""
    return [
        Reading(name="cpu", value=psutil.cpu_percent(), unit="percent"),
        Reading(name="memory_available", value=float(psutil.virtual_memory().available), unit="bytes"),
        Reading(name="agent_rss", value=float(psutil.Process().memory_info().rss), unit="bytes"),
        Reading(name="telemetry_dropped", value=float(dropped), unit="measurements"),
    ]


def read_workload_metrics(workload: Workload) -> list[Reading]:
    """Return the current readings of a workload's runner; unknown values are left out."""
    supervisor, readings = workload.supervisor, []
    labels = {"workload": workload.name}
    if supervisor.running is not None:
        labels |= {"model": supervisor.running.running.model, "version": str(supervisor.running.running.version)}
    if supervisor.runner_pid is not None:
        with suppress(psutil.NoSuchProcess):
            rss = float(psutil.Process(supervisor.runner_pid).memory_info().rss)
            readings.append(Reading(name="runner_rss", value=rss, unit="bytes", labels=labels))
    scoring = supervisor.scoring
    if scoring is not None:
        readings.append(Reading(name="scored", value=float(scoring.requests), unit="requests", labels=labels))
        readings.append(Reading(name="errors", value=float(scoring.errors), unit="requests", labels=labels))
        if scoring.latency_ms.p95 is not None:
            readings.append(Reading(name="latency_p95", value=scoring.latency_ms.p95, unit="milliseconds", labels=labels))
    return readings
