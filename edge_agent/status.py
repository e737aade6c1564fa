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
from edge_agent.identity.identity import Identity
from edge_agent.state_directory import AgentStatus, is_running, read_agent_status, scoring_url
from edge_agent.storage.database import connect_read_only
from edge_agent.storage.store import Store
from edge_agent.storage.variant_times import VariantTimes, load_all
from edge_agent.telemetry.outbox import OUTBOX_FILE
from edge_agent.telemetry.reporter import Sender, compose
from edgewright.contracts.messages import DeploymentState, ReportedState
from edgewright.errors import OperationError

HISTORY = 30


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
    deployment, history = _read_journal(path)
    running, validity = is_running(path), identity.validity()
    agent = read_agent_status(path) if running else None
    trouble = _trouble(agent)
    online = agent is not None and agent.online
    step = next_step(
        Situation(
            deployment=deployment,
            online=online,
            damage=trouble.reason if agent is not None and agent.is_repairing and trouble else None,
        )
    )
    sender = Sender(device=identity.device, profile=identity.enrolment.profile, boot_id="")
    return DeviceStatus(
        agent_running=running,
        pid=agent.pid if agent else None,
        url=identity.url,
        connection=_connection(agent) if running else "the agent is not running",
        certificate_expires_at=validity.not_after if validity else None,
        scoring_url=scoring_url(path),
        next_step=f"{step.action.value}: {step.reason}",
        telemetry_waiting=_waiting(path),
        measured=load_all(path),
        reported=compose(sender, deployment, Store(path).active(), sequence=0, trouble=trouble),
        history=history,
    )


def _read_journal(path: Path) -> tuple[Deployment | None, tuple[PastEvent, ...]]:
    journal = Journal.read_only(path)
    if journal is None:
        return None, ()
    with closing(journal):
        try:
            return journal.current(), journal.history(HISTORY)
        except sqlite3.Error as error:
            raise OperationError(f"the journal in {path} cannot be read: {error}; start the agent, which repairs it") from error


def _connection(agent: AgentStatus | None) -> str:
    if agent is None:
        return "offline: the agent is starting"
    return f"online over {agent.transport}" if agent.transport else f"offline: {agent.problem}"


def _trouble(agent: AgentStatus | None) -> Trouble | None:
    if agent is None or not agent.trouble:
        return None
    return Trouble(agent.trouble, DeploymentState.FETCHING if agent.is_repairing else DeploymentState.FAILED)


def _waiting(path: Path) -> int:
    if not (path / OUTBOX_FILE).is_file():
        return 0
    with closing(connect_read_only(path / OUTBOX_FILE)) as connection:
        try:
            count: int = connection.execute("SELECT COUNT(*) FROM queue").fetchone()[0]
        except sqlite3.Error:
            return 0
        return count
