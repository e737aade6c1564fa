"""Devices: enrolment, certificates, presence, labels, revocation.

    issue_token      make a token that enrols one device
    enrol            exchange the token and a CSR for a certificate
    renew            issue the next certificate; earlier ones stay valid until they expire
    revoke           revoke all certificates of a device; HTTPS refuses them at once, MQTT through the broker
    records          return every device with both sides of its twin

A revoked name can be enrolled again with a token that is bound to it. Its old certificates stay revoked, and the number of its
desired state continues to increase. It keeps its desired state, unless the rollout of it was stopped or failed on the device.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from sqlalchemy import Connection, Row, func, insert, or_, select, update

from cloud.db.database import Counter, insert_or_ignore, raise_counter
from cloud.db.schema import certificates, devices, enrolment_tokens, rollout_devices, rollouts, twins
from cloud.fleet.desired import remove_workloads
from cloud.state.certificates import CLOUD_NAME, DEVICE_DAYS, Authority, serial_of
from edgewright.contracts import wire
from edgewright.contracts.connection.enrolment import EnrolRequest, TokenRequest
from edgewright.contracts.messages import DeploymentState, DesiredState, DeviceRecord, ReportedState, RolloutState
from edgewright.contracts.names import check_name, nearest
from edgewright.contracts.signing import PrivateKey
from edgewright.errors import BadInputError, ConflictError, DeniedError, NotFoundError

ONLINE_WITHIN = timedelta(seconds=150)
"""A device reports every 60 s and polls for at most 60 s; after twice that time and a margin it counts as offline."""
MAX_TOKEN_S = 30 * 24 * 3600.0
MAX_LABELS = 32

_STOPPED = (RolloutState.HALTED, RolloutState.ABORTED)
_FAILED = tuple(state for state in DeploymentState if state.is_failure)

Issue = Callable[[str], x509.Certificate]
"""Issues a certificate to the device of this name."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An enrolled device and its new certificate."""

    device: str
    certificate: x509.Certificate


def issue_token(connection: Connection, request: TokenRequest, now: datetime) -> tuple[str, datetime]:
    """Return a secret that enrols one device, and its expiry; only the hash of the secret is stored."""
    if request.device is not None:
        _check_device_name(request.device)
    if not 0 < request.valid_s <= MAX_TOKEN_S:
        raise BadInputError(f"valid_s must be greater than 0 and at most {MAX_TOKEN_S:.0f} (30 days), not {request.valid_s:g}")
    check_labels(request.labels)
    secret, expires_at = secrets.token_urlsafe(32), now + timedelta(seconds=request.valid_s)
    row = {
        "secret_sha256": _hash(secret),
        "device": request.device,
        "labels": request.labels,
        "expires_at": expires_at,
        "used_at": None,
    }
    connection.execute(insert(enrolment_tokens).values(row))
    return secret, expires_at


def enrol(
    connection: Connection,
    request: EnrolRequest,
    authority: Authority,
    now: datetime,
    *,
    key: PrivateKey,
    days: float = DEVICE_DAYS,
) -> Enrolled:
    """Enrol a device and issue its first certificate; `key` signs the desired state of a device that is enrolled again.

    Raises:
        DeniedError: the token is unknown, used, expired or for another device, or the name is taken.
        BadInputError: the name or the CSR is invalid; the token can be used again.
    """
    _check_device_name(request.device)
    certificate = authority.issue_device(request.csr_pem, request.device, now, days)
    token = _use_token(connection, request, now)
    existing = connection.execute(select(devices).where(devices.c.device == request.device)).one_or_none()
    if existing is None:
        _insert(connection, request, token.labels, now)
    else:
        _enrol_again(connection, request, token, existing, key)
    _record_certificate(connection, request.device, certificate)
    raise_counter(connection, Counter.CHANGES)
    return Enrolled(request.device, certificate)


def renew(connection: Connection, present: x509.Certificate, issue: Issue) -> Enrolled:
    """Issue the next certificate to the device of certificate `present`.

    The caller has verified the device's identity and that `present` may be renewed.

    Raises:
        DeniedError: the device or this certificate was revoked, or the certificate is not a device's.
        BadInputError: the CSR is invalid, or is for the key of the present certificate.
        ConflictError: a certificate with this serial number was already issued.
    """
    device = device_of_certificate(connection, present)
    # The row lock orders this against a revocation: a later one also revokes the new certificate.
    revoked = connection.execute(select(devices.c.revoked).where(devices.c.device == device).with_for_update()).scalar_one()
    if revoked:
        raise DeniedError(f"device {device} was revoked: contact the operator")
    certificate = issue(device)
    if certificate.public_key() == present.public_key():
        raise BadInputError(
            "the certificate signing request must be for a new key, but it is for the current one: create another key"
        )
    _record_certificate(connection, device, certificate)
    return Enrolled(device, certificate)


def device_of_certificate(connection: Connection, certificate: x509.Certificate) -> str:
    """Return the device of a certificate.

    Raises:
        DeniedError: the certificate was revoked, or this cloud did not issue it to a device.
    """
    row = connection.execute(
        select(certificates.c.device, certificates.c.revoked_at).where(certificates.c.serial == serial_of(certificate))
    ).one_or_none()
    if row is None:
        raise DeniedError("the client certificate must be issued by this cloud to a device, but it was not: enrol the device")
    if row.revoked_at is not None:
        raise DeniedError(f"device {row.device} was revoked at {row.revoked_at:%Y-%m-%d %H:%M} UTC: contact the operator")
    device: str = row.device
    return device


def has_later_certificate(connection: Connection, certificate: x509.Certificate) -> bool:
    """Return True if the device of an expired certificate has a later one and was seen after this one expired.

    A later certificate alone is not enough: the response that carried it may have been lost.
    """
    expired_at = certificate.not_valid_after_utc
    of_device = certificates.c.device == device_of_certificate(connection, certificate)
    later = select(certificates.c.device).where(of_device, certificates.c.expires_at > expired_at)
    seen_since = devices.c.device.in_(later), devices.c.last_seen_at > expired_at
    return connection.execute(select(devices.c.device).where(*seen_since)).first() is not None


def revoke(connection: Connection, device: str, now: datetime) -> None:
    """Revoke a device and its certificates; revoking twice has no further effect."""
    _check_exists(connection, device)
    connection.execute(update(devices).where(devices.c.device == device).values(revoked=True))  # first: locks `renew` out
    not_revoked = certificates.c.device == device, certificates.c.revoked_at.is_(None)
    connection.execute(update(certificates).where(*not_revoked).values(revoked_at=now))
    raise_counter(connection, Counter.CHANGES)
    raise_counter(connection, Counter.DESIRED)  # ends a long-poll of this device at once


def is_revoked(connection: Connection, device: str) -> bool:
    """Return True if `device` was revoked or never enrolled."""
    revoked = connection.execute(select(devices.c.revoked).where(devices.c.device == device)).scalar_one_or_none()
    return revoked is not False


def revoked_certificates(connection: Connection, now: datetime) -> list[tuple[str, datetime]]:
    """Return (serial, time of revocation) of revoked certificates that have not expired, for a revocation list."""
    listed = certificates.c.revoked_at.is_not(None), certificates.c.expires_at > now
    rows = connection.execute(select(certificates.c.serial, certificates.c.revoked_at).where(*listed))
    return [(row.serial, row.revoked_at) for row in rows]


def count_certificates(connection: Connection, now: datetime) -> tuple[int, int]:
    """Return the number of certificates issued, and of enrolled devices without a certificate valid at `now`."""
    issued = connection.execute(select(func.count()).select_from(certificates)).scalar_one()
    valid = select(certificates.c.device).where(certificates.c.expires_at > now, certificates.c.revoked_at.is_(None))
    expired = devices.c.revoked.is_(False), devices.c.device.not_in(valid)
    return issued, connection.execute(select(func.count()).select_from(devices).where(*expired)).scalar_one()


def set_labels(connection: Connection, device: str, labels: dict[str, str]) -> None:
    """Replace the labels of a device."""
    check_labels(labels)
    _check_exists(connection, device)
    connection.execute(update(devices).where(devices.c.device == device).values(labels=labels))
    raise_counter(connection, Counter.CHANGES)


def mark_seen(connection: Connection, device: str, now: datetime, *, offline: bool = False) -> None:
    """Store that a device was seen at `now`, or that it (or its MQTT last will) reported itself offline.

    `Counter.CHANGES` is incremented only if the device comes online or goes offline.
    """
    is_device = devices.c.device == device
    row = connection.execute(select(devices.c.last_seen_at, devices.c.reported_offline).where(is_device)).one_or_none()
    if row is None:
        return
    was_online = _is_online(row.last_seen_at, now, reported_offline=row.reported_offline)
    presence = {"reported_offline": True} if offline else {"reported_offline": False, "last_seen_at": now}
    connection.execute(update(devices).where(is_device).values(presence))
    if was_online is offline:
        raise_counter(connection, Counter.CHANGES)


def records(connection: Connection, now: datetime, *, only: str | None = None) -> list[DeviceRecord]:
    """Return all devices, or only device `only`, sorted by name."""
    statement = select(devices, twins.c.desired, twins.c.reported).outerjoin(twins).order_by(devices.c.device)
    if only is not None:
        statement = statement.where(devices.c.device == only)
    return [_record(row, now) for row in connection.execute(statement)]


def record(connection: Connection, device: str, now: datetime) -> DeviceRecord:
    """Return one device.

    Raises:
        NotFoundError: no device has this name; the message suggests the nearest names.
    """
    matches = records(connection, now, only=device)
    if not matches:
        raise _unknown(connection, device)
    return matches[0]


def check_labels(labels: dict[str, str]) -> None:
    """Raise `BadInputError` for more than 32 labels, an invalid name, or a value over 128 characters."""
    if len(labels) > MAX_LABELS:
        raise BadInputError(f"a device may have at most {MAX_LABELS} labels, not {len(labels)}")
    for name, text in labels.items():
        check_name(name, "label")
        if len(text) > 128:
            raise BadInputError(f"the label {name} must be at most 128 characters, not {len(text)}")


def _check_device_name(device: str) -> None:
    check_name(device, "device")
    if device == CLOUD_NAME:
        raise BadInputError(f"a device must not be called {CLOUD_NAME}, which is the name of the cloud: choose another")


def _use_token(connection: Connection, request: EnrolRequest, now: datetime) -> Row[tuple[str | None, dict[str, str]]]:
    """Mark the token as used; a single statement refuses the second of two devices with the same token."""
    table, key = enrolment_tokens, enrolment_tokens.c.secret_sha256 == _hash(request.secret)
    row = connection.execute(select(table.c.device, table.c.labels, table.c.expires_at).where(key)).one_or_none()
    if row is None:
        raise DeniedError("the enrolment token was not issued by this cloud: ask the operator for one")
    if row.expires_at <= now:
        raise DeniedError(f"the enrolment token expired at {row.expires_at:%Y-%m-%d %H:%M} UTC: ask the operator for another")
    if row.device not in (None, request.device):
        raise DeniedError(f"the enrolment token is for device {row.device}, not for {request.device}")
    used = connection.execute(update(table).where(key, table.c.used_at.is_(None)).values(used_at=now))
    if used.rowcount != 1:
        raise DeniedError("the enrolment token was used before: ask the operator for another")
    return row  # type: ignore[return-value]  # expires_at was only needed for the check above


def _insert(connection: Connection, request: EnrolRequest, labels: dict[str, str], now: datetime) -> None:
    row = {
        "device": request.device,
        "labels": labels,
        "profile": request.profile[:64],
        "enrolled_at": now,
        "reported_offline": False,
        "revoked": False,
        "telemetry_count": 0,
    }
    connection.execute(insert(devices).values(row))
    twin = {"device": request.device, "desired_number": 0, "desired_change": 0, "reported_sequence": 0}
    connection.execute(insert(twins).values(twin))


def _enrol_again(
    connection: Connection,
    request: EnrolRequest,
    token: Row[tuple[str | None, dict[str, str]]],
    existing: Row[tuple[object, ...]],
    key: PrivateKey,
) -> None:
    if not existing.revoked:
        raise DeniedError(f"the name {request.device} is taken by another device: choose another name, or revoke that one first")
    if token.device != request.device:
        raise DeniedError(f"{request.device} was revoked: it needs a token made for its name (devices token --device)")
    values = {"revoked": False, "labels": token.labels or existing.labels, "profile": request.profile[:64]}
    connection.execute(update(devices).where(devices.c.device == request.device).values(values))
    _withdraw_stopped(connection, request.device, key)
    change = raise_counter(connection, Counter.DESIRED)  # revocation cleared the retained message: publish it again
    connection.execute(update(twins).where(twins.c.device == request.device).values(desired_change=change))


def _withdraw_stopped(connection: Connection, device: str, key: PrivateKey) -> None:
    """Remove the workloads whose version comes from a rollout that was halted or aborted, or that failed on this device.

    A replacement of the device starts without them, because the version is not to reach further devices.
    """
    raw = connection.execute(select(twins.c.desired).where(twins.c.device == device)).scalar_one()
    if raw is None:
        return
    is_stopped = or_(rollouts.c.state.in_(_STOPPED), rollout_devices.c.state.in_(_FAILED))
    tables = rollout_devices.join(rollouts, rollouts.c.rollout == rollout_devices.c.rollout)
    statement = select(rollout_devices.c.desired_number).select_from(tables)
    numbers = set(connection.execute(statement.where(rollout_devices.c.device == device, is_stopped)).scalars())
    every_workload = wire.decode(raw, DesiredState, what="stored desired state").every_workload
    stopped = {one.workload for one in every_workload if one.desired_number in numbers}
    if len(stopped) == len(every_workload):
        withdrawn = {"desired": None, "desired_envelope": None}
        connection.execute(update(twins).where(twins.c.device == device).values(withdrawn))
    elif stopped:
        remove_workloads(connection, key, device, stopped)


def _record_certificate(connection: Connection, device: str, certificate: x509.Certificate) -> None:
    row = {"serial": serial_of(certificate), "device": device, "expires_at": certificate.not_valid_after_utc}
    recorded = insert_or_ignore(connection, certificates).values(row).returning(certificates.c.serial)
    if connection.execute(recorded).one_or_none() is None:  # psycopg returns no row count for this statement
        raise ConflictError("a nonce must be used once, but this one was used before: request another with GET /v1/renew")


def _check_exists(connection: Connection, device: str) -> None:
    if connection.execute(select(devices.c.device).where(devices.c.device == device)).one_or_none() is None:
        raise _unknown(connection, device)


def _unknown(connection: Connection, device: str) -> NotFoundError:
    names: Iterable[str] = connection.execute(select(devices.c.device)).scalars()
    return NotFoundError(f"no device is called {device!r}{nearest(device, names)}")


def _record(row: Row[tuple[object, ...]], now: datetime) -> DeviceRecord:
    return DeviceRecord(
        device=row.device,
        labels=row.labels,
        profile=row.profile,
        enrolled_at=row.enrolled_at,
        last_seen_at=row.last_seen_at,
        online=_is_online(row.last_seen_at, now, reported_offline=row.reported_offline) and not row.revoked,
        revoked=row.revoked,
        desired=None if row.desired is None else wire.decode(row.desired, DesiredState, what="stored desired state"),
        reported=None if row.reported is None else wire.decode(row.reported, ReportedState, what="stored report"),
        telemetry_count=row.telemetry_count,
        identity_shared_at=row.identity_shared_at,
    )


def _is_online(last_seen_at: datetime | None, now: datetime, *, reported_offline: bool) -> bool:
    return last_seen_at is not None and now - last_seen_at <= ONLINE_WITHIN and not reported_offline


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()
