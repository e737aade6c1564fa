"""Report the state of the device to the cloud: after every change and at a fixed interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_agent.deployment.journal import Deployment
from edge_agent.deployment.repair import Trouble
from edge_agent.deployment.workload import Workload
from edge_agent.link.connection import Connection
from edge_agent.settings import Settings
from edge_agent.storage.store import SlotRecord
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.messages import DeploymentState, FailureCause, ReportedState, ReportedWorkload
from edgewright.errors import EdgewrightError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Sender of a report: the device, its hardware profile and the id of this start of the agent."""

    device: str
    profile: str
    boot_id: str


def compose_workload(
    workload: str,
    deployment: Deployment | None,
    slot: SlotRecord | None,
    *,
    blocked_reason: str | None = None,
    trouble: Trouble | None = None,
) -> ReportedWorkload:
    """Return the report of a workload; a `blocked_reason` or a `trouble` takes the place of the deployment's own reason."""
    reason = deployment.reason if deployment else "no version requested yet"
    state = deployment.state if deployment else None
    cause = deployment.cause if deployment else None
    if trouble is not None or blocked_reason is not None:
        cause = FailureCause.DEVICE
    if trouble is not None:
        reason = trouble.reason
        state = trouble.state if state is DeploymentState.RUNNING else state
    return ReportedWorkload(
        workload=workload,
        desired_number=deployment.desired.desired_number if deployment else 0,
        state=state,
        cause=cause,
        reason=blocked_reason or reason,
        since=deployment.since if deployment else datetime.now(UTC),
        attempt=deployment.attempt if deployment else 1,
        next_retry_at=deployment.retry_at if deployment else None,
        running=slot.running if slot else None,
        bytes_pulled=deployment.bytes_pulled if deployment else 0,
        choice=deployment.choice if deployment else (),
    )


def compose(sender: Sender, workloads: Sequence[ReportedWorkload], *, sequence: int) -> ReportedState:
    """Return the report of the device; a cloud that knows one workload per device reads that of the one that changed last."""
    last = max(workloads, key=lambda each: each.desired_number, default=None)
    last = last or compose_workload("none", None, None)
    return ReportedState(
        device=sender.device,
        desired_number=last.desired_number,
        state=last.state,
        cause=last.cause,
        reason=last.reason,
        since=last.since,
        attempt=last.attempt,
        next_retry_at=last.next_retry_at,
        running=last.running,
        profile=sender.profile,
        agent_version=__version__,
        boot_id=sender.boot_id,
        sequence=sequence,
        bytes_pulled=last.bytes_pulled,
        choice=last.choice,
        workloads=tuple(workloads),
    )


class Reporter:
    """Sender of the reported state; setting `due` triggers a report."""

    def __init__(
        self, sender: Sender, settings: Settings, workloads: Iterable[Workload], connection: Connection, due: asyncio.Event
    ) -> None:
        self._sender = sender
        self._settings = settings
        self._workloads = workloads
        self._connection = connection
        self._due = due
        self._sequence = 0

    async def report_forever(self) -> None:
        """Report when due and at a fixed interval; after a failure, compose a new report instead of resending the old one."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.report_every_s):
                    await self._due.wait()
            self._due.clear()
            if not self._connection.is_online:
                continue  # connecting sets `due` again
            try:
                await self._connection.report(wire.encode(self.compose()))
            except EdgewrightError as error:
                _log.info("could not report reason=%r", str(error))
                await asyncio.sleep(self._settings.retry_base_s)
                self._due.set()

    def compose(self) -> ReportedState:
        """Return the state of the device now, under the next sequence."""
        self._sequence += 1
        reports = [
            compose_workload(
                each.name,
                each.journal.current(),
                each.supervisor.running,
                blocked_reason=each.deployer.blocked_reason,
                trouble=each.deployer.repairs.trouble,
            )
            for each in self._workloads
        ]
        return compose(self._sender, reports, sequence=self._sequence)
