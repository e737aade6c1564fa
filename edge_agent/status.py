"""Status of a device, read from its disk: the agent may be stopped and the cloud unreachable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.deployment.journal import Deployment, Journal, PastEvent
from edge_agent.deployment.plan import Situation, next_step
from edge_agent.deployment.repair import Trouble
from edge_agent.deployment.workloads import known_workloads
from edge_agent.identity.identity import Identity
from edge_agent.state_directory import AgentStatus, WorkloadStatus, is_running, read_agent_status, scoring_url, workload_url
from edge_agent.storage.database import connect_read_only
from edge_agent.storage.links import Links
from edge_agent.storage.store import Store
from edge_agent.storage.variant_times import VariantTimes, load_all
from edge_agent.telemetry.outbox import OUTBOX_FILE
from edge_agent.telemetry.reporter import Sender, compose, compose_workload
from edgewright.contracts.messages import DeploymentState, ReportedState, ReportedWorkload
from edgewright.errors import OperationError

HISTORY = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadProgress:
    """One workload in the answer of `edgewright agent status` and `explain`."""

    workload: str
    scoring_url: str | None
    next_step: str
    reported: ReportedWorkload


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """Answer of `edgewright agent status` and `explain`."""

    agent_running: bool
    pid: int | None
    url: str
    connection: str
    """The transport in use, or the reason why the device is offline."""
    certificate_expires_at: datetime | None
    scoring_url: str | None
    next_step: str
    """The next step of the workload that changed last."""
    workloads: tuple[WorkloadProgress, ...]
    telemetry_waiting: int
    """Measurements that the cloud has not acknowledged."""
    measured: tuple[VariantTimes, ...]
    """Benchmark results of each model's variants on this device."""
    reported: ReportedState
    history: tuple[PastEvent, ...]


def read_status(path: Path) -> DeviceStatus:
    """Read the status of a device.

    Raises:
        NotFoundError: the device is not enrolled.
        OperationError: the journal cannot be read.
    """
    identity = Identity.load(path)
    running, validity = is_running(path), identity.validity()
    agent = read_agent_status(path) if running else None
    workloads, history = _read_journal(path, agent)
    sender = Sender(device=identity.device, profile=identity.enrolment.profile, boot_id="")
    last = max(workloads, key=lambda each: each.reported.desired_number, default=None)
    return DeviceStatus(
        agent_running=running,
        pid=agent.pid if agent else None,
        url=identity.url,
        connection=_connection(agent) if running else "the agent is not running",
        certificate_expires_at=validity.not_after if validity else None,
        scoring_url=scoring_url(path),
        next_step=last.next_step if last else _next_step(None, agent, None),
        workloads=workloads,
        telemetry_waiting=_waiting(path),
        measured=load_all(path),
        reported=compose(sender, [each.reported for each in workloads], sequence=0),
        history=history,
    )


def _read_journal(path: Path, agent: AgentStatus | None) -> tuple[tuple[WorkloadProgress, ...], tuple[PastEvent, ...]]:
    journal = Journal.read_only(path)
    if journal is None:
        return (), ()
    store = Store(path)
    with closing(journal):
        try:
            names = known_workloads(store, journal)
            return tuple(_progress(path, store, name, journal.of(name).current(), agent) for name in names), journal.history(
                HISTORY
            )
        except sqlite3.Error as error:
            raise OperationError(f"the journal in {path} cannot be read: {error}; start the agent, which repairs it") from error


def _progress(path: Path, store: Store, name: str, deployment: Deployment | None, agent: AgentStatus | None) -> WorkloadProgress:
    status = agent.workloads.get(name) if agent else None
    return WorkloadProgress(
        workload=name,
        scoring_url=workload_url(path, name),
        next_step=_next_step(deployment, agent, status),
        reported=compose_workload(name, deployment, Links(store, name).active(), trouble=_trouble(status)),
    )


def _next_step(deployment: Deployment | None, agent: AgentStatus | None, status: WorkloadStatus | None) -> str:
    step = next_step(
        Situation(
            deployment=deployment,
            online=agent is not None and agent.online,
            damage=status.trouble if status and status.is_repairing and status.trouble else None,
        )
    )
    return f"{step.action.value}: {step.reason}"


def _connection(agent: AgentStatus | None) -> str:
    if agent is None:
        return "offline: the agent is starting"
    return f"online over {agent.transport}" if agent.transport else f"offline: {agent.problem}"


def _trouble(status: WorkloadStatus | None) -> Trouble | None:
    if status is None or not status.trouble:
        return None
    return Trouble(status.trouble, DeploymentState.FETCHING if status.is_repairing else DeploymentState.FAILED)


def _waiting(path: Path) -> int:
    if not (path / OUTBOX_FILE).is_file():
        return 0
    with closing(connect_read_only(path / OUTBOX_FILE)) as connection:
        try:
            count: int = connection.execute("SELECT COUNT(*) FROM queue").fetchone()[0]
        except sqlite3.Error:
            return 0
        return count
