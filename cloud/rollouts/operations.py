"""Rollouts: what an operator does with them. The rules are `rollout_rules.py`, what happens by itself `rollout_engine.py`.

A device belongs to one active rollout at most, because it runs one version and desired state has one writer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, insert

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import rollout_devices, rollouts
from cloud.fleet import devices
from cloud.registry import models
from cloud.rollouts.engine import outcomes_of, take_back
from cloud.rollouts.rules import Candidate, check_request, give_back, plan_waves
from cloud.rollouts.store import ACTIVE, StoredRollout, bad_profiles, busy_devices, change_rollout, lock_rollouts, one_rollout
from edgewright.contracts import wire
from edgewright.contracts.messages import DeviceRecord, ModelVersion, RolloutRequest, RolloutState
from edgewright.contracts.names import nearest
from edgewright.contracts.signing import PrivateKey
from edgewright.errors import ConflictError, NotFoundError


def create(connection: Connection, request: RolloutRequest, now: datetime) -> StoredRollout:
    """Plan a rollout and store it; the engine takes it from there.

    Raises:
        NotFoundError: the model, the version or a device is unknown.
        ConflictError: a device is revoked or in another rollout, or the package is known to fail on its hardware.
        BadInputError: the request makes no sense, or nobody matches it.
    """
    check_request(request)
    lock_rollouts(connection)
    version = models.find_version(connection, request.model, request.version)
    chosen = _choose(connection, request, now)
    _check_free(connection, chosen)
    if not request.devices:  # naming a device is an operator's order to try again
        _check_not_known_bad(connection, version, chosen)
    waves = plan_waves(request, [Candidate(each.device, each.online) for each in chosen], version.version)
    number = _insert_rollout(connection, request, version, now)
    online = {each.device: each.online for each in chosen}
    members = [(device, wave) for wave, names in enumerate(waves) for device in names]
    rows = [
        {
            "rollout": number,
            "device": device,
            "wave": wave,
            "place": place,
            "since": now,
            "online": online[device],
            "online_since": now,
            "reason": "",
        }
        for place, (device, wave) in enumerate(members)
    ]
    connection.execute(insert(rollout_devices), rows)
    raise_counter(connection, Counter.CHANGES)
    return one_rollout(connection, number)


def pause(connection: Connection, number: int, now: datetime) -> StoredRollout:
    """Offer the version to nobody further; doing it twice is the same as once."""
    return _switch(connection, number, RolloutState.PAUSED, "paused by an operator", now)


def resume(connection: Connection, number: int, now: datetime) -> StoredRollout:
    """Go on with a paused rollout."""
    return _switch(connection, number, RolloutState.RUNNING, "resumed by an operator", now)


def abort(connection: Connection, key: PrivateKey, number: int, now: datetime) -> StoredRollout:
    """End a rollout: offers that were not carried out are withdrawn, devices that run the version keep it."""
    stored = _switch(connection, number, RolloutState.ABORTED, "aborted by an operator", now)
    known = {each.device: each for each in devices.records(connection, now)}
    returning = give_back(stored.rules(), outcomes_of(connection, stored, known), reverse=False)
    take_back(connection, key, stored, returning, now)
    return one_rollout(connection, number)


def _switch(connection: Connection, number: int, state: RolloutState, reason: str, now: datetime) -> StoredRollout:
    lock_rollouts(connection)
    stored = one_rollout(connection, number)
    if stored.state not in ACTIVE:
        raise ConflictError(f"rollout {number} must be running or paused for that, but it is {stored.state}; start another one")
    if stored.state is not state:
        change_rollout(connection, number, now, state=state, reason=reason)
    return one_rollout(connection, number)


def _choose(connection: Connection, request: RolloutRequest, now: datetime) -> list[DeviceRecord]:
    """Return the devices that the request names, or those with its labels, or all; revoked ones only matter if named."""
    known = {each.device: each for each in devices.records(connection, now)}
    if not request.devices:
        wanted = request.labels.items()
        return [each for each in known.values() if wanted <= each.labels.items() and not each.revoked]
    for name in request.devices:
        if name not in known:
            raise NotFoundError(f"no device is called {name[:64]!r}{nearest(name, known)}")
        if known[name].revoked:
            raise ConflictError(f"device {name} was revoked and takes nothing more; leave it out, or enrol it again")
    return [known[name] for name in request.devices]


def _check_free(connection: Connection, chosen: Sequence[DeviceRecord]) -> None:
    busy = busy_devices(connection)
    for each in chosen:
        if each.device in busy:
            number = busy[each.device]
            raise ConflictError(
                f"device {each.device} is in rollout {number}, which has not ended; wait for it, "
                f"or end it with 'edgewright rollout abort {number}'"
            )


def _check_not_known_bad(connection: Connection, version: ModelVersion, chosen: Sequence[DeviceRecord]) -> None:
    bad = bad_profiles(connection, version.index.digest)
    for each in chosen:
        if each.profile in bad:
            raise ConflictError(
                f"{version.model}:{version.version} is known to fail on {each.profile} ({bad[each.profile]}); "
                "publish a better version, or name the devices that retry it"
            )


def _insert_rollout(connection: Connection, request: RolloutRequest, version: ModelVersion, now: datetime) -> int:
    row = {
        "request": wire.encode(request),
        "model": version.model,
        "version": version.version,
        "package_index": wire.encode(version.index),
        "state": RolloutState.RUNNING,
        "reason": "planned",
        "wave": 0,
        "created_at": now,
        "changed_at": now,
    }
    number: int = connection.execute(insert(rollouts).values(row).returning(rollouts.c.rollout)).scalar_one()
    return number
