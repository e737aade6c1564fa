"""Where a device stands, read from its disk: with or without its agent, with or without its cloud."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.deployment.journal import Deployment, Journal, PastEvent
from edge_agent.deployment.plan import Situation, next_step
from edge_agent.identity.identity import Identity
from edge_agent.state_directory import HOST, is_inhabited, read_note
from edge_agent.storage.database import connect_read_only
from edge_agent.storage.store import Store
from edge_agent.storage.variant_times import VariantTimes, everything_measured
from edge_agent.telemetry.outbox import OUTBOX_FILE
from edge_agent.telemetry.reporter import compose
from edgewright.contracts.messages import ReportedState
from edgewright.errors import OperationError

HISTORY = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The answer of `status` and `explain`."""

    agent_running: bool
    pid: int | None
    url: str
    connection: str
    """How the cloud is reached, or why it is not."""
    certificate_expires_at: datetime | None
    scoring_url: str | None
    next_step: str
    telemetry_waiting: int
    measured: tuple[VariantTimes, ...]
    """What was measured of each model's variants here, while the device chose by measuring."""
    reported: ReportedState
    history: tuple[PastEvent, ...]


def read_standing(path: Path) -> Standing:
    """Read where the device stands; raise `NotFoundError` when it is not enrolled."""
    identity = Identity.load(path)
    deployment, history = _read_journal(path)
    note, alive, validity = read_note(path), is_inhabited(path), identity.validity()
    online = alive and note is not None and note.online
    step = next_step(Situation(deployment=deployment, online=online))
    return Standing(
        agent_running=alive,
        pid=note.pid if note and alive else None,
        url=identity.url,
        connection=_connection(alive, note.transport if note else None, note.problem if note else ""),
        certificate_expires_at=validity.not_after if validity else None,
        scoring_url=f"http://{HOST}:{note.port}" if note else None,
        next_step=f"{step.action.value}: {step.reason}",
        telemetry_waiting=_waiting(path),
        measured=everything_measured(path),
        reported=compose(
            deployment,
            Store(path).active(),
            device=identity.device,
            profile=identity.membership.profile,
            boot_id="",
            sequence=0,
        ),
        history=history,
    )


def _read_journal(path: Path) -> tuple[Deployment | None, tuple[PastEvent, ...]]:
    journal = Journal.read_only(path)
    if journal is None:
        return None, ()
    with closing(journal):
        try:
            return journal.current(), journal.history(HISTORY)
        except sqlite3.Error as failed:
            raise OperationError(
                f"the journal in {path} must be readable, but: {failed}; the agent repairs it when it starts"
            ) from failed


def _connection(alive: bool, transport: str | None, problem: str) -> str:
    if not alive:
        return "the agent is not running"
    return f"online by {transport}" if transport else f"offline: {problem}"


def _waiting(path: Path) -> int:
    if not (path / OUTBOX_FILE).is_file():
        return 0
    with closing(connect_read_only(path / OUTBOX_FILE)) as connection:
        try:
            count: int = connection.execute("SELECT COUNT(*) FROM queue").fetchone()[0]
        except sqlite3.Error:
            return 0
        return count
