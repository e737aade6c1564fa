"""The operations of an operator on rollouts: create, pause, resume, abort. `engine.py` advances them.

A workload of a device belongs to at most one active rollout, because it runs one version and its desired state has one writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, insert

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import rollout_devices, rollouts
from cloud.fleet import devices
from cloud.fleet.desired import remove_workloads
from cloud.registry import models
from cloud.rollouts.deployments import Tick, restore
from cloud.rollouts.failures import failing_profiles
from cloud.rollouts.observation import outcomes_of
from cloud.rollouts.rules import Candidate, check_request, devices_to_restore, plan_waves
from cloud.rollouts.store import ACTIVE, StoredRollout, busy_devices, change_rollout, lock_rollouts, one_rollout
from edgewright.contracts import wire
from edgewright.contracts.messages import DeviceRecord, ModelVersion, RolloutRequest, RolloutState
from edgewright.contracts.names import nearest
from edgewright.contracts.signing import PrivateKey
from edgewright.errors import ConflictError, NotFoundError


def create(connection: Connection, request: RolloutRequest, now: datetime) -> StoredRollout:
    """Plan a rollout and store it; the engine advances it from there.

    Raises:
        NotFoundError: the model, the version or a device is unknown.
        ConflictError: a device is revoked or in another rollout, or the package is known to fail on its hardware.
        BadInputError: the request is invalid, or no device matches it.
    """
    check_request(request)
    lock_rollouts(connection)
    version = models.find_version(connection, request.model, request.version)
    if not version.variants:
        raise ConflictError(f"{version.model}:{version.version} must hold a package, but only source files are registered")
    selected = select_devices(connection, request.devices, request.labels, now)
    _check_free(connection, selected, request.workload_name)
    if not request.devices:  # an operator who names a device asks for another attempt
        _check_no_known_failure(connection, version, selected)
    waves = plan_waves(request, [Candidate(each.device, each.online) for each in selected], version.version)
    _check_agents(selected, request.workload_name)
    number = _insert_rollout(connection, request, version, now)
    _insert_devices(connection, number, waves, {each.device: each.online for each in selected}, now)
    raise_counter(connection, Counter.CHANGES)
    return one_rollout(connection, number)


def pause(connection: Connection, number: int, now: datetime) -> StoredRollout:
    """Stop offering the version to further devices; pausing twice has no further effect."""
    return _switch(connection, number, RolloutState.PAUSED, "paused by an operator", now)


def resume(connection: Connection, number: int, now: datetime) -> StoredRollout:
    """Continue a paused rollout."""
    return _switch(connection, number, RolloutState.RUNNING, "resumed by an operator", now)


def abort(connection: Connection, key: PrivateKey, number: int, now: datetime) -> StoredRollout:
    """End a rollout: withdraw open offers; devices that run the version keep it."""
    stored = _switch(connection, number, RolloutState.ABORTED, "aborted by an operator", now)
    tick = Tick.begin(connection, key, now)
    outcomes = outcomes_of(connection, stored, tick.records)
    restore(tick, stored, devices_to_restore(stored.rules(), outcomes, rollback=False))
    return one_rollout(connection, number)


def remove_workload(connection: Connection, key: PrivateKey, device: str, workload: str, now: datetime) -> DeviceRecord:
    """Remove a workload from the desired state of a device, which stops it and frees its slots; return the device.

    Raises:
        NotFoundError: the device is unknown or has no such workload.
        ConflictError: an active rollout of the workload includes the device, or its agent knows one workload.
    """
    lock_rollouts(connection)
    record = devices.record(connection, device, now)
    names = [one.workload for one in record.desired.every_workload] if record.desired else []
    if workload not in names:
        raise NotFoundError(f"{device} has no workload {workload[:64]!r}{nearest(workload, names)}")
    _check_free(connection, [record], workload)
    if record.reported is not None and record.reported.workloads is None:
        raise ConflictError(f"the agent of {device} must know several workloads to remove one, but it knows one: update it")
    remove_workloads(connection, key, device, [workload])
    return devices.record(connection, device, now)


def _switch(connection: Connection, number: int, state: RolloutState, reason: str, now: datetime) -> StoredRollout:
    lock_rollouts(connection)
    stored = one_rollout(connection, number)
    if stored.state not in ACTIVE:
        raise ConflictError(f"rollout {number} must be running or paused for that, but it is {stored.state}: create another one")
    if stored.state is not state:
        change_rollout(connection, number, now, state=state, reason=reason)
    return one_rollout(connection, number)


def select_devices(connection: Connection, names: Sequence[str], labels: Mapping[str, str], now: datetime) -> list[DeviceRecord]:
    """Return the named devices, else those with the labels, else all, without revoked ones.

    Raises:
        NotFoundError: a named device is unknown.
        ConflictError: a named device is revoked.
    """
    records = {each.device: each for each in devices.records(connection, now)}
    if not names:
        return [each for each in records.values() if labels.items() <= each.labels.items() and not each.revoked]
    for name in names:
        if name not in records:
            raise NotFoundError(f"no device is called {name[:64]!r}{nearest(name, records)}")
        if records[name].revoked:
            raise ConflictError(f"device {name} must be enrolled, but it was revoked: leave it out, or enrol it again")
    return [records[name] for name in names]


def _check_free(connection: Connection, selected: Sequence[DeviceRecord], workload: str) -> None:
    busy = busy_devices(connection, workload)
    for each in selected:
        if each.device in busy:
            number = busy[each.device]
            raise ConflictError(
                f"device {each.device} must not be in an active rollout of workload {workload}, but it is in rollout {number}: "
                f"wait until it ends, or abort it with 'edgewright rollouts abort {number}'"
            )


def _check_agents(selected: Sequence[DeviceRecord], workload: str) -> None:
    """Check that the agents of devices with another workload know more than one per device."""
    for each in selected:
        others = [one.workload for one in each.desired.every_workload if one.workload != workload] if each.desired else []
        if others and each.reported is not None and each.reported.workloads is None:
            raise ConflictError(
                f"the agent of {each.device} must know several workloads, but version {each.reported.agent_version or 'unknown'} "
                f"knows one, which is {others[0]}: update it, or replace that one with --workload {others[0]}"
            )


def _check_no_known_failure(connection: Connection, version: ModelVersion, selected: Sequence[DeviceRecord]) -> None:
    failing = failing_profiles(connection, version.index.digest)
    for each in selected:
        if each.profile in failing:
            raise ConflictError(
                f"{version.model}:{version.version} is known to fail on {each.profile} ({failing[each.profile]}): "
                "publish a fixed version, name the devices that should try it again, or lift this with "
                f"'edgewright rollouts forgive {version.model}:{version.version}'"
            )


def _insert_rollout(connection: Connection, request: RolloutRequest, version: ModelVersion, now: datetime) -> int:
    row = {
        "request": wire.encode(request),
        "model": version.model,
        "version": version.version,
        "workload": request.workload_name,
        "package_index": wire.encode(version.index),
        "state": RolloutState.RUNNING,
        "reason": "planned",
        "wave": 0,
        "created_at": now,
        "changed_at": now,
    }
    number: int = connection.execute(insert(rollouts).values(row).returning(rollouts.c.rollout)).scalar_one()
    return number


def _insert_devices(
    connection: Connection, number: int, waves: Sequence[Sequence[str]], online: Mapping[str, bool], now: datetime
) -> None:
    in_order = [(device, wave) for wave, names in enumerate(waves) for device in names]
    rows = [
        {
            "rollout": number,
            "device": device,
            "wave": wave,
            "position": position,
            "since": now,
            "online": online[device],
            "online_since": now,
            "reason": "",
        }
        for position, (device, wave) in enumerate(in_order)
    ]
    connection.execute(insert(rollout_devices), rows)
