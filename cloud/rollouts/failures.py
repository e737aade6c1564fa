"""Known failures: a package, by its digest, that failed on a hardware profile is not rolled out there again.

Only a failure that a device attributes to the package is stored. A damaged disk, a wrong clock, a missing key or a killed
process of one device is no evidence against the package on another device. An operator can remove a stored failure.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select

from cloud.db.database import Counter, insert_or_ignore, raise_counter
from cloud.db.schema import known_failures
from cloud.registry import models
from cloud.rollouts.store import lock_rollouts
from edgewright.contracts.messages import DeviceRecord, FailureCause, ReportedWorkload
from edgewright.contracts.models.known_failures import ForgiveRequest, KnownFailure
from edgewright.contracts.names import nearest
from edgewright.errors import NotFoundError


def store_failure(
    connection: Connection, digest: str, record: DeviceRecord, report: ReportedWorkload | None, now: datetime
) -> None:
    """Store that a package fails on a device's hardware profile, if the device's report attributes the failure to the package."""
    if report is None or report.cause is not FailureCause.PACKAGE or not record.profile:
        return
    reason = f"{record.device}: {report.reason}"
    row = {"index_digest": digest, "profile": record.profile, "reason": reason, "at": now}
    connection.execute(insert_or_ignore(connection, known_failures).values(row))


def failing_profiles(connection: Connection, digest: str) -> dict[str, str]:
    """Return the hardware profiles on which a package is known to fail, each with the reason."""
    return {each.profile: each.reason for each in _stored(connection, digest)}


def forgive(connection: Connection, request: ForgiveRequest) -> list[KnownFailure]:
    """Remove the known failures of a version's package, on one profile or on all; return what was removed.

    Raises:
        NotFoundError: the model or version is unknown, or is not known to fail on the given profile.
    """
    lock_rollouts(connection)
    version = models.find_version(connection, request.model, request.version)
    stored = _stored(connection, version.index.digest)
    removed = [each for each in stored if request.profile in (None, each.profile)]
    if request.profile is not None and not removed:
        name = f"{request.model}:{request.version}"
        hint = nearest(request.profile, [each.profile for each in stored])
        raise NotFoundError(f"{name} is not known to fail on {request.profile[:64]!r}{hint}")
    for each in removed:
        is_removed = known_failures.c.index_digest == version.index.digest, known_failures.c.profile == each.profile
        connection.execute(delete(known_failures).where(*is_removed))
    raise_counter(connection, Counter.CHANGES)
    return removed


def _stored(connection: Connection, digest: str) -> list[KnownFailure]:
    is_same = known_failures.c.index_digest == digest
    rows = connection.execute(select(known_failures).where(is_same).order_by(known_failures.c.profile))
    return [KnownFailure(profile=row.profile, reason=row.reason, at=row.at) for row in rows]
