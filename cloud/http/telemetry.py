"""Measurements for operators, and the number that pages follow."""

from __future__ import annotations

from datetime import UTC, datetime

from cloud.auth import Access
from cloud.db.database import Counter
from cloud.fleet import telemetry
from cloud.http.device import wait_seconds
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.messages import ChangeNumber, StoredMeasurement
from edgewright.errors import BadInputError


def find_measurements(call: Call) -> list[StoredMeasurement]:
    """Return the measurements that fit."""
    query = telemetry.Query(
        device=call.text("device"), name=call.text("name"), since=_instant(call.text("since")), limit=call.whole("limit", 1000)
    )
    with call.cloud.database.reading() as connection:
        return telemetry.find(connection, query)


async def follow_changes(call: Call) -> ChangeNumber:
    """Answer as soon as something changed after `after`."""
    after, wait_s = call.whole("after", 0), wait_seconds(call)
    return ChangeNumber(number=await call.cloud.changes.wait(Counter.CHANGES, after, wait_s))


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise BadInputError(f"since must be an instant like 2030-01-31T12:00:00Z, not {text[:64]!r}") from wrong
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/telemetry",
        access=Access.OPERATOR,
        summary="The newest measurements that fit, in the order of time.",
        handler=find_measurements,
        gives=list[StoredMeasurement],
        query={
            "device": "only of this device",
            "name": "only of this name",
            "since": "only from this instant on",
            "limit": "at most so many, 1000 when absent",
        },
    ),
    Endpoint(
        method="GET",
        path="/v1/changes",
        access=Access.OPERATOR,
        summary="A number that rises with every change; waits while it equals `after`.",
        handler=follow_changes,
        gives=ChangeNumber,
        query={"after": "the number seen last", "wait_s": "how long to wait for another, at most 60 s"},
    ),
)
