"""The rollout engine: observe the devices, ask the rules for the next step, and carry it out.

    drive_rollouts    loop until cancelled: wait for a change or for a second, then tick
    tick              look for news without a lock; if there is news, act in short transactions

The engine is level-triggered: a tick reads nothing but the tables. The next tick continues the work of a killed process, and a
superfluous tick changes nothing. A lease selects the worker that acts, and another worker takes over when it expires. The lease
is checked in the transaction that acts, so two workers never act on the same state even if their clocks disagree.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from datetime import UTC, datetime, timedelta

from anyio import to_thread
from sqlalchemy import Connection, update

from cloud.context import Cloud
from cloud.db.database import Counter, Database
from cloud.db.schema import leases
from cloud.rollouts.deployments import Tick, offer, restore, store_observation
from cloud.rollouts.observation import observe, outcomes_of
from cloud.rollouts.rules import Complete, Halt, Offer, OpenWave, Step, Wait, next_step
from cloud.rollouts.store import LEASE_NAME, StoredRollout, change_rollout, lock_rollouts, one_rollout, unfinished_rollouts
from edgewright.contracts.messages import RolloutState
from edgewright.contracts.signing import PrivateKey

POLL_INTERVAL_S = 1.0
MIN_INTERVAL_S = 0.1
"""Minimum pause between two ticks, which limits a flood of telemetry to ten ticks a second; after a long tick, twice its time."""
MAX_OFFERS = 100
"""Maximum number of offers in one transaction, so that other writers do not wait long."""
LEASE_DURATION = timedelta(seconds=5)

_LOG = logging.getLogger("edgewright.cloud.rollouts")


async def drive_rollouts(cloud: Cloud) -> None:
    """Drive all rollouts until cancelled; the service restarts this task after an error."""
    holder = uuid.uuid4().hex
    try:
        while True:
            seen, began = cloud.changes.number(Counter.CHANGES), time.monotonic()
            await to_thread.run_sync(tick, cloud.database, cloud.state.signing_key, holder, datetime.now(UTC))
            await asyncio.sleep(max(MIN_INTERVAL_S, 2 * (time.monotonic() - began)))
            await cloud.changes.wait(Counter.CHANGES, seen, POLL_INTERVAL_S)
    finally:
        release_lease(cloud.database, holder)


def tick(database: Database, key: PrivateKey, holder: str, now: datetime) -> None:
    """Advance every rollout as far as possible at `now`, if this worker holds the lease.

    Without changes nothing is locked or written. Each change increments a counter; the next tick then continues unfinished work.
    """
    with database.reading() as connection:
        if not _has_news(connection, key, now):
            return
    with database.transaction() as connection:
        if _acquire_lease(connection, holder, now):
            advance_all(Tick.begin(connection, key, now))


def advance_all(current: Tick) -> None:
    """Store the observed state of every unfinished rollout and carry out its steps; large offers take several ticks."""
    for number in unfinished_rollouts(current.connection):
        store_observation(current, one_rollout(current.connection, number))
        _advance(current, number)


def release_lease(database: Database, holder: str) -> None:
    """Release the lease, so that another worker takes over at once."""
    with database.transaction() as connection:
        is_held = leases.c.name == LEASE_NAME, leases.c.holder == holder
        connection.execute(update(leases).where(*is_held).values(holder=""))


def _has_news(connection: Connection, key: PrivateKey, now: datetime) -> bool:
    """Return True if a tick would change anything; most ticks would not, so this takes no lock."""
    numbers = unfinished_rollouts(connection)
    if not numbers:
        return False
    current = Tick.begin(connection, key, now)
    return any(_would_change(current, one_rollout(connection, number)) for number in numbers)


def _would_change(current: Tick, stored: StoredRollout) -> bool:
    observed = observe(stored, current.records, current.now)
    step = _next_step(current, observed)
    return observed != stored or not isinstance(step, Wait) or _is_new_reason(stored, step)


def _is_new_reason(stored: StoredRollout, step: Wait) -> bool:
    return stored.state is RolloutState.RUNNING and stored.reason != step.reason


def _next_step(current: Tick, stored: StoredRollout) -> Step:
    return next_step(stored.rules(), outcomes_of(current.connection, stored, current.records), current.now)


def _advance(current: Tick, number: int) -> None:
    """Carry out steps until the rules wait or an offer is too large; every wave has few steps, so the loop ends."""
    is_finished = False
    while not is_finished:
        stored = one_rollout(current.connection, number)
        step = _next_step(current, stored)
        is_finished = isinstance(step, Wait) or (isinstance(step, Offer) and len(step.devices) > MAX_OFFERS)
        _carry_out(current, stored, step)


def _carry_out(current: Tick, stored: StoredRollout, step: Step) -> None:
    connection, number, now = current.connection, stored.number, current.now
    match step:
        case Wait(reason):
            if _is_new_reason(stored, step):
                change_rollout(connection, number, now, reason=reason)
            return
        case Offer(devices):
            offer(current, stored, devices[:MAX_OFFERS])
        case OpenWave(wave):
            change_rollout(connection, number, now, wave=wave)
        case Halt(reason, devices):
            change_rollout(connection, number, now, state=RolloutState.HALTED, reason=reason)
            restore(current, stored, devices)
        case Complete(reason):
            change_rollout(connection, number, now, state=RolloutState.COMPLETED, reason=reason)
    _LOG.info("carried out step rollout=%d step=%s", number, step)


def _acquire_lease(connection: Connection, holder: str, now: datetime) -> bool:
    """Acquire or keep the lease; it is renewed after half its duration, so that most ticks do not write it."""
    lease = lock_rollouts(connection)
    if lease.holder == holder and lease.until > now + LEASE_DURATION / 2:
        return True
    if lease.holder not in ("", holder) and lease.until > now:
        return False
    connection.execute(update(leases).where(leases.c.name == LEASE_NAME).values(holder=holder, until=now + LEASE_DURATION))
    return True
