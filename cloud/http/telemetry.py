"""Measurements of devices, for operators."""

from __future__ import annotations

from datetime import UTC, datetime

from cloud.auth import Access
from cloud.fleet import telemetry
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.messages import StoredMeasurement, TelemetryQueue
from edgewright.contracts.names import check_instant
from edgewright.errors import BadInputError


def find_measurements(call: Call) -> list[StoredMeasurement]:
    """Return the matching measurements."""
    query = telemetry.Query(
        device=call.text("device"),
        name=call.text("name"),
        since=_instant(call.text("since")),
        queue_id=call.text("queue_id"),
        from_sequence=call.whole("from_sequence", 0),
        limit=call.whole("limit", 1000),
    )
    with call.cloud.database.reading() as connection:
        return telemetry.find(connection, query)


def list_queues(call: Call) -> list[TelemetryQueue]:
    """Return the queues of a device."""
    device = call.text("device")
    if device is None:
        raise BadInputError("the query parameter device must name the device whose queues are listed")
    with call.cloud.database.reading() as connection:
        return telemetry.queues(connection, device)


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
        numbers=("limit", "from_sequence"),
        query={
            "device": "only measurements of this device",
            "name": "only measurements of this name",
            "since": "only measurements from this time on",
            "queue_id": "only measurements of this queue of the device, the lowest sequence first",
            "from_sequence": "with queue_id: only measurements with this sequence or a higher one",
            "limit": "maximum number of measurements; 1000 by default",
        },
    ),
    Endpoint(
        method="GET",
        path="/v1/telemetry/queues",
        access=Access.OPERATOR,
        summary="The queues of a device, each with the sequence of its newest measurement.",
        handler=list_queues,
        response_type=list[TelemetryQueue],
        query={"device": "the device"},
    ),
)
