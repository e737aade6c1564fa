"""Deployments of a rollout: offer its version to devices, store what they report, and restore the previous version.

Every function works within one `Tick`: an open transaction with the devices as they are at one point in time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from cloud.db.database import Counter, raise_counter
from cloud.fleet import devices
from cloud.fleet.desired import DesiredSpec
from cloud.fleet.twins import set_desired
from cloud.registry import models
from cloud.rollouts.failures import store_failure
from cloud.rollouts.observation import Records, observe
from cloud.rollouts.store import PreviousVersion, StoredDevice, StoredRollout, change_device, one_rollout
from edgewright.contracts import wire
from edgewright.contracts.messages import DeploymentState, DesiredState, DeviceRecord, ReportedWorkload
from edgewright.contracts.signing import PrivateKey
from edgewright.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Tick:
    """One pass over the rollouts: an open transaction, the key that signs desired states, the devices, and the time."""

    connection: Connection
    key: PrivateKey
    records: Records
    now: datetime

    @classmethod
    def begin(cls, connection: Connection, key: PrivateKey, now: datetime) -> Tick:
        """Read the devices as they are at `now`."""
        return cls(connection, key, {each.device: each for each in devices.records(connection, now)}, now)


def store_observation(tick: Tick, stored: StoredRollout) -> None:
    """Store the devices whose observed state differs, and the failures of the package itself."""
    observed = observe(stored, tick.records, tick.now)
    changes = [pair for pair in zip(stored.devices, observed.devices, strict=True) if pair[0] != pair[1]]
    if changes:
        raise_counter(tick.connection, Counter.CHANGES)
    for before, after in changes:
        change_device(
            tick.connection,
            stored.number,
            after.device,
            state=after.state,
            reason=after.reason,
            since=after.since,
            online=after.online,
            online_since=after.online_since,
        )
        if after.state is not before.state and after.state is not None and after.state.is_failure:
            record = tick.records[after.device]
            store_failure(tick.connection, stored.index.digest, record, _report(record, stored), tick.now)


def offer(tick: Tick, stored: StoredRollout, names: Collection[str]) -> None:
    """Make the rollout's version the desired state of the named devices."""
    for device in stored.devices:
        if device.device in names:
            _offer(tick, stored, device)
    raise_counter(tick.connection, Counter.CHANGES)
    store_observation(tick, one_rollout(tick.connection, stored.number))


def restore(tick: Tick, stored: StoredRollout, names: Collection[str]) -> None:
    """Make the previous version the desired state of the named devices, under a higher number."""
    for device in stored.devices:
        if device.device in names and device.previous is not None:
            _restore(tick, stored, device, device.previous)


def _offer(tick: Tick, stored: StoredRollout, device: StoredDevice) -> None:
    """Offer the version; a device that already has it as its desired state, and has not failed, is not notified again."""
    record = tick.records[device.device]
    already = _already_desired(record, stored)
    if already is not None:
        number, previous = already.desired_number, None
    else:
        previous = _previous_version(tick.connection, _report(record, stored))
        spec = DesiredSpec(
            model=stored.request.model,
            version=stored.version,
            index=stored.index,
            allow_downgrade=_is_downgrade(record, stored),
            trial_s=stored.request.trial_s,
            device_timeout_s=stored.request.device_timeout_s,
            workload=stored.workload,
        )
        number = set_desired(tick.connection, tick.key, device.device, spec).desired_number
    change_device(
        tick.connection,
        stored.number,
        device.device,
        desired_number=number,
        state=DeploymentState.OFFERED,
        since=tick.now,
        previous=None if previous is None else wire.encode(previous),
    )


def _report(record: DeviceRecord, stored: StoredRollout) -> ReportedWorkload | None:
    """Return the report of a device on the rollout's workload."""
    return None if record.reported is None else record.reported.of(stored.workload)


def _already_desired(record: DeviceRecord, stored: StoredRollout) -> DesiredState | None:
    """Return the desired state of the workload if it is the rollout's version and has not failed."""
    desired, report = record.desired and record.desired.of(stored.workload), _report(record, stored)
    if desired is None or (desired.model, desired.index.digest) != (stored.request.model, stored.index.digest):
        return None
    if desired.version != stored.version:
        return None
    is_current = report is not None and report.desired_number == desired.desired_number
    has_failed = is_current and report is not None and report.state is not None and report.state.is_failure
    return None if has_failed else desired


def _is_downgrade(record: DeviceRecord, stored: StoredRollout) -> bool:
    """Return True if the rollout's version is older than the running one; creating the rollout permits the downgrade."""
    report = _report(record, stored)
    running = report.running if report else None
    return running is not None and running.model == stored.request.model and running.version > stored.version


def _previous_version(connection: Connection, report: ReportedWorkload | None) -> PreviousVersion | None:
    """Return the version that a device runs, or None unless this cloud published it: only then can it be restored."""
    running = report.running if report else None
    if running is None:
        return None
    try:
        version = models.find_version(connection, running.model, running.version)
    except NotFoundError:
        return None
    if version.index.digest != running.index_digest:
        return None
    return PreviousVersion(model=running.model, version=running.version, index=version.index)


def _restore(tick: Tick, stored: StoredRollout, device: StoredDevice, previous: PreviousVersion) -> None:
    spec = DesiredSpec(
        model=previous.model,
        version=previous.version,
        index=previous.index,
        allow_downgrade=True,
        trial_s=stored.request.trial_s,
        device_timeout_s=stored.request.device_timeout_s,
        workload=stored.workload,
    )
    set_desired(tick.connection, tick.key, device.device, spec)
    change_device(
        tick.connection,
        stored.number,
        device.device,
        state=DeploymentState.SUPERSEDED,
        since=tick.now,
        reason=f"restored {previous.model}:{previous.version}",
    )
