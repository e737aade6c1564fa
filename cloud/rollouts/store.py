"""Rollouts in the database: rows to the values of the rules, and back to what clients read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, RowMapping, Select, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import bad_versions, leases, rollout_devices, rollouts
from cloud.rollouts.rules import Rollout
from edgewright.contracts import wire
from edgewright.contracts.messages import DeploymentState, RolloutDevice, RolloutRecord, RolloutRequest, RolloutState
from edgewright.contracts.oci import Descriptor
from edgewright.errors import NotFoundError

LEASE_NAME = "rollouts"
ACTIVE = (RolloutState.RUNNING, RolloutState.PAUSED)
_OPEN = [state for state in DeploymentState if not state.is_final]


@dataclass(frozen=True, slots=True)
class Lease:
    """Who drives the rollouts, and until when."""

    holder: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a device ran before it was offered the version: to this it can be returned."""

    model: str
    version: int
    index: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One device of a rollout, as its row says."""

    device: str
    wave: int
    desired_number: int | None
    state: DeploymentState | None
    since: datetime
    online: bool
    online_since: datetime
    reason: str
    before: Before | None

    def record(self) -> RolloutDevice:
        """Return what clients read."""
        return RolloutDevice(
            device=self.device, wave=self.wave, desired_number=self.desired_number, state=self.state, reason=self.reason
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollout:
    """One rollout and its devices, in the order of the plan."""

    number: int
    request: RolloutRequest
    version: int
    index: Descriptor
    state: RolloutState
    reason: str
    wave: int
    created_at: datetime
    changed_at: datetime
    members: tuple[Member, ...]

    def rules(self) -> Rollout:
        """Return what the rules need to know."""
        waves: list[list[str]] = [[] for _ in range(1 + max(member.wave for member in self.members))]
        for member in self.members:
            waves[member.wave].append(member.device)
        return Rollout(
            state=self.state,
            waves=tuple(tuple(wave) for wave in waves),
            wave=self.wave,
            success_threshold=self.request.success_threshold,
            soak_s=self.request.soak_s,
            device_timeout_s=self.request.device_timeout_s,
            rollback_on_halt=self.request.rollback_on_halt,
        )

    def record(self) -> RolloutRecord:
        """Return what clients read."""
        devices = tuple(
            RolloutDevice(
                device=each.device, wave=each.wave, desired_number=each.desired_number, state=each.state, reason=each.reason
            )
            for each in self.members
        )
        return RolloutRecord(
            rollout=self.number,
            request=self.request,
            model=self.request.model,
            version=self.version,
            state=self.state,
            reason=self.reason,
            wave=self.wave,
            created_at=self.created_at,
            changed_at=self.changed_at,
            devices=devices,
        )


def lock_rollouts(connection: Connection) -> Lease:
    """Let no other transaction decide about rollouts before this one ends; return who drives them, and until when.

    SQLite has one writer anyway; elsewhere it is the row that is locked.
    """
    lease = select(leases.c.holder, leases.c.until).where(leases.c.name == LEASE_NAME)
    row = connection.execute(lease.with_for_update()).one()
    return Lease(row.holder, row.until)


def all_rollouts(connection: Connection) -> list[StoredRollout]:
    """Return every rollout, newest first."""
    return _load(connection, select(rollouts).order_by(rollouts.c.rollout.desc()))


def one_rollout(connection: Connection, number: int) -> StoredRollout:
    """Return one rollout; raise `NotFoundError` when there is none of that number."""
    found = _load(connection, select(rollouts).where(rollouts.c.rollout == number))
    if not found:
        newest = connection.execute(select(rollouts.c.rollout).order_by(rollouts.c.rollout.desc()).limit(1)).scalar_one_or_none()
        hint = "there is none yet" if newest is None else f"the newest is {newest}"
        raise NotFoundError(f"no rollout has the number {number}; {hint}")
    return found[0]


def unfinished_rollouts(connection: Connection) -> list[int]:
    """Return the rollouts that something can still happen to: the active ones, and ended ones with devices under way."""
    under_way = select(rollout_devices.c.rollout).where(rollout_devices.c.state.in_(_OPEN))
    wanted = rollouts.c.state.in_(ACTIVE) | rollouts.c.rollout.in_(under_way)
    return list(connection.execute(select(rollouts.c.rollout).where(wanted).order_by(rollouts.c.rollout)).scalars())


def busy_devices(connection: Connection) -> dict[str, int]:
    """Return which devices belong to an active rollout, and to which."""
    both = rollout_devices.join(rollouts, rollouts.c.rollout == rollout_devices.c.rollout)
    columns = rollout_devices.c.device, rollout_devices.c.rollout
    rows = connection.execute(select(*columns).select_from(both).where(rollouts.c.state.in_(ACTIVE)))
    return {row.device: row.rollout for row in rows}


def bad_profiles(connection: Connection, digest: str) -> dict[str, str]:
    """Return the hardware profiles on which a package is known to fail, each with how."""
    rows = connection.execute(select(bad_versions).where(bad_versions.c.index_digest == digest))
    return {row.profile: row.reason for row in rows}


def change_rollout(connection: Connection, number: int, now: datetime, **values: object) -> None:
    """Change some columns of a rollout."""
    connection.execute(update(rollouts).where(rollouts.c.rollout == number).values(changed_at=now, **values))
    raise_counter(connection, Counter.CHANGES)


def change_member(connection: Connection, number: int, device: str, **values: object) -> None:
    """Change some columns of one device of a rollout; who changes many tells the watchers once (`raise_counter`)."""
    mine = rollout_devices.c.rollout == number, rollout_devices.c.device == device
    connection.execute(update(rollout_devices).where(*mine).values(**values))


def _load(connection: Connection, wanted: Select[tuple[object, ...]]) -> list[StoredRollout]:
    rows = connection.execute(wanted).all()
    numbers = [row.rollout for row in rows]
    members: dict[int, list[Member]] = {number: [] for number in numbers}
    mine = select(rollout_devices).where(rollout_devices.c.rollout.in_(numbers)).order_by(rollout_devices.c.place)
    for row in connection.execute(mine).mappings():
        members[row["rollout"]].append(_member(row))
    return [_rollout(row, members[row.rollout]) for row in rows]


def _rollout(row: Row[tuple[object, ...]], members: Sequence[Member]) -> StoredRollout:
    return StoredRollout(
        number=row.rollout,
        request=wire.decode(row.request, RolloutRequest, what="a stored rollout"),
        version=row.version,
        index=wire.decode(row.package_index, Descriptor, what="a stored rollout's index"),
        state=RolloutState(row.state),
        reason=row.reason,
        wave=row.wave,
        created_at=row.created_at,
        changed_at=row.changed_at,
        members=tuple(members),
    )


def _member(row: RowMapping) -> Member:
    before = row["before"]
    return Member(
        device=row["device"],
        wave=row["wave"],
        desired_number=row["desired_number"],
        state=None if row["state"] is None else DeploymentState(row["state"]),
        since=row["since"],
        online=row["online"],
        online_since=row["online_since"],
        reason=row["reason"],
        before=None if before is None else wire.decode(before, Before, what="what a device ran before"),
    )
