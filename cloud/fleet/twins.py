"""Twins: the desired state of each device beside the state that the device last reported.

Desired state has one writer, the rollout engine, through `set_desired`, which changes one workload (desired.py). Its number
increases with every change and is never reused, not even for a rollback. It is signed once, when it is set; the signed bytes are
stored and sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, or_, select, update

from cloud.db.database import Counter, raise_counter
from cloud.db.schema import devices, twins
from cloud.fleet.desired import DesiredSpec, replace_workload
from cloud.fleet.devices import is_revoked, mark_seen
from cloud.fleet.shared_identity import record_boot_id
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import DesiredState, ReportedState
from edgewright.errors import ConflictError, DeniedError, MessageError

MAX_SEQUENCE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SignedDesired:
    """The signed envelope and the number of a device's desired state."""

    device: str
    desired_number: int
    envelope: bytes


def set_desired(connection: Connection, key: signing.PrivateKey, device: str, spec: DesiredSpec) -> DesiredState:
    """Set the desired state of a workload under the next number; it is sent after the transaction is committed.

    Raises:
        ConflictError: the device is not enrolled.
    """
    if is_revoked(connection, device):
        raise ConflictError(
            f"device {device} must be enrolled to get a desired state, but it was revoked or never enrolled: enrol it first"
        )
    return replace_workload(connection, key, device, spec)


def desired_after(connection: Connection, device: str, have: int) -> bytes | None:
    """Return the envelope of a desired state whose number is greater than `have`, or None.

    Raises:
        DeniedError: the device was revoked.
    """
    if is_revoked(connection, device):
        raise DeniedError(f"device {device} was revoked: contact the operator")
    newer = twins.c.device == device, twins.c.desired_number > have
    return connection.execute(select(twins.c.desired_envelope).where(*newer)).scalar_one_or_none()


def desired_changed_after(connection: Connection, change: int) -> list[SignedDesired]:
    """Return the envelopes of enrolled devices that were set after counter value `change`, for the MQTT publisher."""
    columns = twins.c.device, twins.c.desired_number, twins.c.desired_envelope
    newer = twins.c.desired_change > change, twins.c.desired_envelope.is_not(None), devices.c.revoked.is_(False)
    rows = connection.execute(select(*columns).join(devices).where(*newer).order_by(twins.c.desired_change))
    return [SignedDesired(row.device, row.desired_number, row.desired_envelope) for row in rows]


def store_report(connection: Connection, device: str, report: ReportedState, now: datetime, *, live: bool = True) -> bool:
    """Store a device's report; return False if it is older than the stored one (P41), which then stays.

    `live` is False for a report that a broker retained: it does not show that the device is online.
    """
    check_sender(device, report.device)
    if not 0 <= report.sequence <= MAX_SEQUENCE or len(report.boot_id) > 128:
        raise MessageError(f"a report's sequence must be 0 to {MAX_SEQUENCE} and its boot_id at most 128 characters")
    if is_revoked(connection, device):
        raise DeniedError(f"device {device} must be enrolled, but it was revoked or never enrolled: enrol it first")
    if live:
        mark_seen(connection, device, now)
        record_boot_id(connection, device, report.boot_id, now)
    newer = or_(
        twins.c.reported.is_(None),
        twins.c.reported_boot_id != report.boot_id,
        twins.c.reported_sequence < report.sequence,
    )
    values = {"reported": wire.encode(report), "reported_boot_id": report.boot_id, "reported_sequence": report.sequence}
    is_stored = connection.execute(update(twins).where(twins.c.device == device, newer).values(values)).rowcount == 1
    if is_stored:
        raise_counter(connection, Counter.CHANGES)
    return is_stored


def check_sender(device: str, named: str) -> None:
    """Raise `DeniedError` unless a body names the device of the certificate or topic that carried it."""
    if named != device:
        raise DeniedError(f"a message of device {device} must name that device, but it names {named}")
