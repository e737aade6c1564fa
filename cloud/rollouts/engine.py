"""What happens to rollouts by itself: look at what devices report, ask the rules, do what they say.

    drive_rollouts    for ever: sleep until something changed or a second has passed, then tick
    tick              look whether there is news; if so act, in transactions that are short however large the fleet is

Level-triggered: a tick knows nothing but the tables, so a process killed anywhere is continued by the next one, and a tick
too many changes nothing. The lease lets one of several workers act; the others look on and take over when it lapses. Because
it is checked in the transaction that acts, two workers can never act on the same moment even if their clocks disagree.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from anyio import to_thread
from sqlalchemy import Connection, update

from cloud.context import Cloud
from cloud.db.database import Counter, Database, insert_or_ignore, raise_counter
from cloud.db.schema import bad_versions, leases
from cloud.fleet import devices
from cloud.fleet.twins import Wanted, set_desired
from cloud.registry import models
from cloud.rollouts.rules import Complete, Halt, Offer, OpenWave, Outcome, Wait, next_step
from cloud.rollouts.store import (
    LEASE_NAME,
    Before,
    Member,
    StoredRollout,
    bad_profiles,
    change_member,
    change_rollout,
    lock_rollouts,
    one_rollout,
    unfinished_rollouts,
)
from edgewright.contracts import wire
from edgewright.contracts.messages import DeploymentState, DeviceRecord, RolloutState
from edgewright.contracts.signing import PrivateKey
from edgewright.errors import NotFoundError

LOOK_EVERY_S = 1.0
REST_S = 0.1
"""Between two ticks, so that a flood of telemetry costs ten looks a second and no more; after a long tick, twice its time."""
OFFERS_AT_ONCE = 100
"""In one transaction: others want to write too."""
LEASE = timedelta(seconds=5)

_BAD_FOR_THE_HARDWARE = frozenset({DeploymentState.REFUSED, DeploymentState.ROLLED_BACK})
_LOG = logging.getLogger("edgewright.cloud.rollouts")


async def drive_rollouts(cloud: Cloud) -> None:
    """Drive all rollouts, for ever; what fails is tried again by the service."""
    holder = uuid.uuid4().hex
    try:
        while True:
            seen, began = cloud.changes.number(Counter.CHANGES), time.monotonic()
            await to_thread.run_sync(tick, cloud.database, cloud.state.signing_key, holder, datetime.now(UTC))
            await asyncio.sleep(max(REST_S, 2 * (time.monotonic() - began)))
            await cloud.changes.wait(Counter.CHANGES, seen, LOOK_EVERY_S)
    finally:
        give_up_lease(cloud.database, holder)


def tick(database: Database, key: PrivateKey, holder: str, now: datetime) -> None:
    """Bring every rollout as far as it can get at `now`, if nobody else does; without news nothing is locked or written.

    Whatever it changes is itself a change, so what it left unfinished is gone on with at once.
    """
    if not _is_news(database, now):
        return
    with database.transaction() as connection:
        if _take_lease(connection, holder, now):
            advance_all(connection, key, now)


def advance_all(connection: Connection, key: PrivateKey, now: datetime) -> None:
    """Write down what is new about every unfinished rollout, and apply its steps; large offers are left unfinished."""
    known = _known(connection, now)
    for number in unfinished_rollouts(connection):
        stored = one_rollout(connection, number)
        _write(connection, stored, observe(stored, known, now), known, now)
        _advance(connection, key, number, known, now)


def give_up_lease(database: Database, holder: str) -> None:
    """Let another worker take over at once."""
    with database.transaction() as connection:
        mine = leases.c.name == LEASE_NAME, leases.c.holder == holder
        connection.execute(update(leases).where(*mine).values(holder=""))


def observe(stored: StoredRollout, known: dict[str, DeviceRecord], now: datetime) -> StoredRollout:
    """Return the rollout as its devices are now; when something changed is told by the cloud's own clock."""
    digest = stored.index.digest
    return replace(stored, members=tuple(_observe_one(each, known[each.device], digest, now) for each in stored.members))


def heard(member: Member, record: DeviceRecord, digest: str) -> tuple[DeploymentState | None, str]:
    """Return the state and reason that a device has now, as far as this rollout is concerned.

    A device that says it is running counts only if it names this package: what it runs is what is rolled out.
    """
    report = record.reported
    kept = member.state, member.reason
    if member.desired_number is None or report is None or member.state is DeploymentState.SUPERSEDED:
        return kept
    if report.desired_number > member.desired_number:
        ended = member.state is not None and member.state.is_final
        return kept if ended else (DeploymentState.SUPERSEDED, "it was given something else to run")
    if report.desired_number < member.desired_number or report.state is None:
        return kept
    if report.state is DeploymentState.RUNNING and (report.running is None or report.running.index_digest != digest):
        return member.state, "says that it is running, but not this package"
    return report.state, report.reason


def outcomes_of(connection: Connection, stored: StoredRollout, known: dict[str, DeviceRecord]) -> dict[str, Outcome]:
    """Return what the rules need to know of each device."""
    bad = {} if stored.request.devices else bad_profiles(connection, stored.index.digest)
    return {each.device: _outcome(each, known[each.device], bad) for each in stored.members}


def take_back(connection: Connection, key: PrivateKey, stored: StoredRollout, returning: Collection[str], now: datetime) -> None:
    """Make what devices ran before desired again, under a higher number."""
    for member in stored.members:
        if member.device in returning and member.before is not None:
            _return(connection, key, stored, member, member.before, now)


def _is_news(database: Database, now: datetime) -> bool:
    """Tell whether a tick would change anything: asked without a lock, because mostly it would not."""
    with database.reading() as connection:
        numbers = unfinished_rollouts(connection)
        known = _known(connection, now) if numbers else {}
        for number in numbers:
            stored = one_rollout(connection, number)
            seen = observe(stored, known, now)
            step = next_step(seen.rules(), outcomes_of(connection, seen, known), now)
            if seen != stored or not isinstance(step, Wait) or _is_other_reason(stored, step):
                return True
    return False


def _is_other_reason(stored: StoredRollout, step: Wait) -> bool:
    return stored.state is RolloutState.RUNNING and stored.reason != step.reason


def _known(connection: Connection, now: datetime) -> dict[str, DeviceRecord]:
    return {each.device: each for each in devices.records(connection, now)}


def _observe_one(member: Member, record: DeviceRecord, digest: str, now: datetime) -> Member:
    state, reason = heard(member, record, digest)
    return replace(
        member,
        state=state,
        reason=reason,
        since=member.since if state is member.state else now,
        online=record.online,
        online_since=member.online_since if record.online is member.online else now,
    )


def _write(
    connection: Connection, before: StoredRollout, after: StoredRollout, known: dict[str, DeviceRecord], now: datetime
) -> None:
    """Store the members that differ, and remember on which hardware the package turned out to be bad."""
    changed = [(was, member) for was, member in zip(before.members, after.members, strict=True) if member != was]
    if changed:
        raise_counter(connection, Counter.CHANGES)
    for was, member in changed:
        change_member(
            connection,
            after.number,
            member.device,
            state=member.state,
            reason=member.reason,
            since=member.since,
            online=member.online,
            online_since=member.online_since,
        )
        if member.state is not was.state and member.state in _BAD_FOR_THE_HARDWARE:
            _remember_bad(connection, after, known[member.device], member.reason, now)


def _advance(connection: Connection, key: PrivateKey, number: int, known: dict[str, DeviceRecord], now: datetime) -> None:
    """Apply steps until the rules say wait or much has been offered; each wave gives few, so this ends."""
    while True:
        stored = one_rollout(connection, number)
        step = next_step(stored.rules(), outcomes_of(connection, stored, known), now)
        match step:
            case Wait(reason):
                if _is_other_reason(stored, step):
                    change_rollout(connection, number, now, reason=reason)
                return
            case Offer(offered):
                _offer_some(connection, key, stored, offered[:OFFERS_AT_ONCE], known, now)
                if len(offered) > OFFERS_AT_ONCE:
                    return
            case OpenWave(wave):
                change_rollout(connection, number, now, wave=wave)
            case Halt(reason, returning):
                change_rollout(connection, number, now, state=RolloutState.HALTED, reason=reason)
                take_back(connection, key, stored, returning, now)
            case Complete(reason):
                change_rollout(connection, number, now, state=RolloutState.COMPLETED, reason=reason)
        _LOG.info("step rollout=%d step=%s", number, step)


def _outcome(member: Member, record: DeviceRecord, bad: dict[str, str]) -> Outcome:
    return Outcome(
        state=member.state,
        since=member.since,
        online=member.online,
        online_since=member.online_since,
        reason=member.reason,
        barred=bad.get(record.profile, ""),
        revoked=record.revoked,
        can_return=member.before is not None,
    )


def _offer_some(
    connection: Connection,
    key: PrivateKey,
    stored: StoredRollout,
    offered: Sequence[str],
    known: dict[str, DeviceRecord],
    now: datetime,
) -> None:
    for member in stored.members:
        if member.device in offered:
            _offer(connection, key, stored, member, known[member.device], now)
    raise_counter(connection, Counter.CHANGES)
    current = one_rollout(connection, stored.number)
    _write(connection, current, observe(current, known, now), known, now)


def _offer(
    connection: Connection, key: PrivateKey, stored: StoredRollout, member: Member, record: DeviceRecord, now: datetime
) -> None:
    """Make the version desired; a device that was told so before, and has not failed, needs not be told again."""
    before = _before(connection, record)
    if _wants_it_already(record, stored):
        assert record.desired is not None
        version, before = record.desired.desired_number, None
    else:
        wanted = Wanted(
            model=stored.request.model,
            version=stored.version,
            index=stored.index,
            allow_downgrade=_is_downgrade(record, stored),
            trial_s=stored.request.trial_s,
            device_timeout_s=stored.request.device_timeout_s,
        )
        version = set_desired(connection, key, member.device, wanted).desired_number
    change_member(
        connection,
        stored.number,
        member.device,
        desired_number=version,
        state=DeploymentState.OFFERED,
        since=now,
        before=None if before is None else wire.encode(before),
    )


def _wants_it_already(record: DeviceRecord, stored: StoredRollout) -> bool:
    desired, report = record.desired, record.reported
    if desired is None or (desired.model, desired.index.digest) != (stored.request.model, stored.index.digest):
        return False
    if desired.version != stored.version:
        return False
    about_it = report is not None and report.desired_number == desired.desired_number
    return not (about_it and report is not None and report.state is not None and report.state.is_bad)


def _is_downgrade(record: DeviceRecord, stored: StoredRollout) -> bool:
    """Tell whether the operator asks for an older version than the device runs: asking is what allows it."""
    running = record.reported.running if record.reported else None
    return running is not None and running.model == stored.request.model and running.version > stored.version


def _before(connection: Connection, record: DeviceRecord) -> Before | None:
    """Return what a device runs now, if it was published here: only then can it be desired again."""
    running = record.reported.running if record.reported else None
    if running is None:
        return None
    try:
        version = models.find_version(connection, running.model, running.version)
    except NotFoundError:
        return None
    if version.index.digest != running.index_digest:
        return None
    return Before(model=running.model, version=running.version, index=version.index)


def _return(
    connection: Connection, key: PrivateKey, stored: StoredRollout, member: Member, before: Before, now: datetime
) -> None:
    wanted = Wanted(
        model=before.model,
        version=before.version,
        index=before.index,
        allow_downgrade=True,
        trial_s=stored.request.trial_s,
        device_timeout_s=stored.request.device_timeout_s,
    )
    set_desired(connection, key, member.device, wanted)
    reason = f"returned to {before.model}:{before.version}"
    change_member(connection, stored.number, member.device, state=DeploymentState.SUPERSEDED, since=now, reason=reason)


def _remember_bad(connection: Connection, stored: StoredRollout, record: DeviceRecord, reason: str, now: datetime) -> None:
    """Remember that this package fails on this hardware; a device that could not fetch it, or is silent, proves no such thing."""
    if record.profile:
        row = {"index_digest": stored.index.digest, "profile": record.profile, "reason": f"{record.device}: {reason}", "at": now}
        connection.execute(insert_or_ignore(connection, bad_versions).values(row))


def _take_lease(connection: Connection, holder: str, now: datetime) -> bool:
    """Take or keep the lease; renewed at half its time, so that a tick without news writes nothing."""
    lease = lock_rollouts(connection)
    if lease.holder == holder and lease.until > now + LEASE / 2:
        return True
    if lease.holder not in ("", holder) and lease.until > now:
        return False
    connection.execute(update(leases).where(leases.c.name == LEASE_NAME).values(holder=holder, until=now + LEASE))
    return True
