"""Twins: what the cloud wants of each device, beside what the device last said.

Desired state has one writer, the rollout engine, through `set_desired`. Its version rises with every change and is never
used twice, also for a rollback. It is signed once, when it is set, and the signed bytes are what is stored and sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, or_, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import devices, twins
from cloud.fleet.devices import is_revoked, saw
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import DesiredState, ReportedState
from edgewright.contracts.oci import Descriptor
from edgewright.errors import ConflictError, DeniedError, MessageError

MAX_SEQUENCE = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a device should run: `Desired` without the device and the number, which `set_desired` adds."""

    model: str
    version: int
    index: Descriptor
    allow_downgrade: bool = False
    trial_s: float = 60.0
    device_timeout_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class SignedDesired:
    """The envelope of a device's desired state, and its number."""

    device: str
    desired_number: int
    envelope: bytes


def set_desired(connection: Connection, key: signing.PrivateKey, device: str, wanted: Wanted) -> DesiredState:
    """Want something else of a device, under the next number; it is sent when the transaction is committed.

    Raises:
        ConflictError: the device is no member.
    """
    if is_revoked(connection, device):
        raise ConflictError(f"device {device} is no member: it was revoked or never enrolled; nothing can be wanted of it")
    change = raise_counter(connection, Counter.DESIRED)
    raise_counter(connection, Counter.CHANGES)
    raised = (
        update(twins)
        .where(twins.c.device == device)
        .values(desired_number=twins.c.desired_number + 1, desired_change=change)
        .returning(twins.c.desired_number)
    )
    desired = DesiredState(
        device=device,
        desired_number=connection.execute(raised).scalar_one(),
        model=wanted.model,
        version=wanted.version,
        index=wanted.index,
        allow_downgrade=wanted.allow_downgrade,
        trial_s=wanted.trial_s,
        device_timeout_s=wanted.device_timeout_s,
    )
    payload = wire.encode(desired)
    envelope = signing.sign(payload, signing.DESIRED_TYPE, key)
    connection.execute(update(twins).where(twins.c.device == device).values(desired=payload, desired_envelope=envelope))
    return desired


def desired_after(connection: Connection, device: str, have: int) -> bytes | None:
    """Return the envelope for `device` when its number is over `have`; raise `DeniedError` when it was revoked meanwhile."""
    if is_revoked(connection, device):
        raise DeniedError(f"device {device} was revoked: ask the operator")
    wanted = twins.c.device == device, twins.c.desired_number > have
    return connection.execute(select(twins.c.desired_envelope).where(*wanted)).scalar_one_or_none()


def desired_changed_after(connection: Connection, change: int) -> list[SignedDesired]:
    """Return the members' envelopes set after the `change`-th change of desired state: what the MQTT publisher sends."""
    columns = twins.c.device, twins.c.desired_number, twins.c.desired_envelope
    newer = twins.c.desired_change > change, twins.c.desired_envelope.is_not(None), devices.c.revoked.is_(False)
    rows = connection.execute(select(*columns).join(devices).where(*newer).order_by(twins.c.desired_change))
    return [SignedDesired(row.device, row.desired_number, row.desired_envelope) for row in rows]


def store_report(connection: Connection, device: str, report: ReportedState, now: datetime, *, live: bool = True) -> bool:
    """Keep what a device says of itself; return False when it is older than what is stored (P41) and changes nothing.

    `live` False is a report that a broker kept: it says nothing about whether the device is there now.
    """
    check_author(device, report.device)
    if not 0 <= report.sequence <= MAX_SEQUENCE or len(report.boot_id) > 128:
        raise MessageError(f"a report's sequence must be 0 to {MAX_SEQUENCE} and its boot_id at most 128 characters")
    if is_revoked(connection, device):
        raise DeniedError(f"device {device} is no member: it was revoked or never enrolled")
    if live:
        saw(connection, device, now)
    newer = or_(
        twins.c.reported.is_(None),
        twins.c.reported_boot_id != report.boot_id,
        twins.c.reported_sequence < report.sequence,
    )
    values = {"reported": wire.encode(report), "reported_boot_id": report.boot_id, "reported_sequence": report.sequence}
    stored = connection.execute(update(twins).where(twins.c.device == device, newer).values(values))
    if stored.rowcount == 1:
        raise_counter(connection, Counter.CHANGES)
    return stored.rowcount == 1


def check_author(device: str, named: str) -> None:
    """Raise `DeniedError` when a body speaks for another device than the one whose certificate or topic carried it."""
    if named != device:
        raise DeniedError(f"device {device} must speak for itself, but the body names {named}")
