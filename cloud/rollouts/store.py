"""Rollouts in the database: convert rows to the values of the rules and to the records of the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, RowMapping, Select, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import leases, rollout_devices, rollouts
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
    """The worker that drives the rollouts, and the expiry of its lease."""

    holder: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousVersion:
    """The version that a device ran as the workload before it was offered the rollout's version."""

    model: str
    version: int
    index: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDevice:
    """One device of a rollout."""

    device: str
    wave: int
    desired_number: int | None
    state: DeploymentState | None
    since: datetime
    online: bool
    online_since: datetime
    reason: str
    previous: PreviousVersion | None

    def record(self) -> RolloutDevice:
        """Return the device as the API shows it."""
        return RolloutDevice(
            device=self.device, wave=self.wave, desired_number=self.desired_number, state=self.state, reason=self.reason
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollout:
    """One rollout and its devices, in the order of the plan."""

    number: int
    request: RolloutRequest
    workload: str
    version: int
    index: Descriptor
    state: RolloutState
    reason: str
    wave: int
    created_at: datetime
    changed_at: datetime
    devices: tuple[StoredDevice, ...]

    def rules(self) -> Rollout:
        """Return the rollout as input of the rules."""
        waves: list[list[str]] = [[] for _ in range(1 + max(each.wave for each in self.devices))]
        for each in self.devices:
            waves[each.wave].append(each.device)
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
        """Return the rollout as the API shows it."""
        return RolloutRecord(
            rollout=self.number,
            request=self.request,
            model=self.request.model,
            workload=self.workload,
            version=self.version,
            state=self.state,
            reason=self.reason,
            wave=self.wave,
            created_at=self.created_at,
            changed_at=self.changed_at,
            devices=tuple(each.record() for each in self.devices),
        )


def lock_rollouts(connection: Connection) -> Lease:
    """Lock the rollouts until the transaction ends, and return the current lease.

    The lease's row is locked where the database locks rows; SQLite has a single writer.
    """
    lease = select(leases.c.holder, leases.c.until).where(leases.c.name == LEASE_NAME)
    row = connection.execute(lease.with_for_update()).one()
    return Lease(row.holder, row.until)


def all_rollouts(connection: Connection) -> list[StoredRollout]:
    """Return every rollout, newest first."""
    return _load(connection, select(rollouts).order_by(rollouts.c.rollout.desc()))


def one_rollout(connection: Connection, number: int) -> StoredRollout:
    """Return one rollout.

    Raises:
        NotFoundError: no rollout has this number.
    """
    stored = _load(connection, select(rollouts).where(rollouts.c.rollout == number))
    if not stored:
        newest = connection.execute(select(rollouts.c.rollout).order_by(rollouts.c.rollout.desc()).limit(1)).scalar_one_or_none()
        hint = "no rollout exists yet" if newest is None else f"the newest is {newest}"
        raise NotFoundError(f"no rollout has the number {number}; {hint}")
    return stored[0]


def unfinished_rollouts(connection: Connection) -> list[int]:
    """Return the numbers of active rollouts and of ended rollouts whose devices are still in progress."""
    in_progress = select(rollout_devices.c.rollout).where(rollout_devices.c.state.in_(_OPEN))
    unfinished = rollouts.c.state.in_(ACTIVE) | rollouts.c.rollout.in_(in_progress)
    return list(connection.execute(select(rollouts.c.rollout).where(unfinished).order_by(rollouts.c.rollout)).scalars())


def busy_devices(connection: Connection, workload: str) -> dict[str, int]:
    """Return the devices of active rollouts of a workload, each with the number of its rollout."""
    both = rollout_devices.join(rollouts, rollouts.c.rollout == rollout_devices.c.rollout)
    columns = rollout_devices.c.device, rollout_devices.c.rollout
    active = rollouts.c.state.in_(ACTIVE), rollouts.c.workload == workload
    return {row.device: row.rollout for row in connection.execute(select(*columns).select_from(both).where(*active))}


def change_rollout(connection: Connection, number: int, now: datetime, **values: object) -> None:
    """Update columns of a rollout."""
    connection.execute(update(rollouts).where(rollouts.c.rollout == number).values(changed_at=now, **values))
    raise_counter(connection, Counter.CHANGES)


def change_device(connection: Connection, number: int, device: str, **values: object) -> None:
    """Update columns of one device of a rollout; the caller raises `Counter.CHANGES` once for all devices."""
    row = rollout_devices.c.rollout == number, rollout_devices.c.device == device
    connection.execute(update(rollout_devices).where(*row).values(**values))


def _load(connection: Connection, statement: Select[tuple[object, ...]]) -> list[StoredRollout]:
    rows = connection.execute(statement).all()
    numbers = [row.rollout for row in rows]
    devices: dict[int, list[StoredDevice]] = {number: [] for number in numbers}
    in_order = select(rollout_devices).where(rollout_devices.c.rollout.in_(numbers)).order_by(rollout_devices.c.position)
    for row in connection.execute(in_order).mappings():
        devices[row["rollout"]].append(_device(row))
    return [_rollout(row, devices[row.rollout]) for row in rows]


def _rollout(row: Row[tuple[object, ...]], devices: Sequence[StoredDevice]) -> StoredRollout:
    return StoredRollout(
        number=row.rollout,
        request=wire.decode(row.request, RolloutRequest, what="a stored rollout"),
        workload=row.workload,
        version=row.version,
        index=wire.decode(row.package_index, Descriptor, what="a stored rollout's index"),
        state=RolloutState(row.state),
        reason=row.reason,
        wave=row.wave,
        created_at=row.created_at,
        changed_at=row.changed_at,
        devices=tuple(devices),
    )


def _device(row: RowMapping) -> StoredDevice:
    previous = row["previous"]
    return StoredDevice(
        device=row["device"],
        wave=row["wave"],
        desired_number=row["desired_number"],
        state=None if row["state"] is None else DeploymentState(row["state"]),
        since=row["since"],
        online=row["online"],
        online_since=row["online_since"],
        reason=row["reason"],
        previous=None if previous is None else wire.decode(previous, PreviousVersion, what="a stored previous version"),
    )
