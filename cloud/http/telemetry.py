"""Measurements of devices, for operators."""

from __future__ import annotations

from datetime import UTC, datetime

from cloud.auth import Access
from cloud.fleet import telemetry
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.messages import StoredMeasurement
from edgewright.contracts.names import check_instant
from edgewright.errors import BadInputError


def find_measurements(call: Call) -> list[StoredMeasurement]:
    """Return the matching measurements."""
    query = telemetry.Query(
        device=call.text("device"), name=call.text("name"), since=_instant(call.text("since")), limit=call.whole("limit", 1000)
    )
    with call.cloud.database.reading() as connection:
        return telemetry.find(connection, query)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(f"since must be a timestamp such as 2030-01-31T12:00:00Z, not {text[:64]!r}") from error
    check_instant(instant, "since")
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/telemetry",
        access=Access.OPERATOR,
        summary="The newest matching measurements, oldest first.",
        handler=find_measurements,
        response_type=list[StoredMeasurement],
        numbers=("limit",),
        query={
            "device": "only measurements of this device",
            "name": "only measurements of this name",
            "since": "only measurements from this time on",
            "limit": "maximum number of measurements; 1000 by default",
        },
    ),
)
