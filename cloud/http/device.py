"""What a device does for itself over HTTPS: wait for desired state, report, send telemetry. The bodies are those of MQTT."""

from __future__ import annotations

from datetime import UTC, datetime

from anyio import to_thread
from starlette.responses import Response

from cloud.auth import Access
from cloud.db.database import Counter
from cloud.fleet import devices, telemetry, twins
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.messages import ReportedState, TelemetryAck, TelemetryBatch
from edgewright.contracts.signing import Envelope
from edgewright.errors import BadInputError

MAX_WAIT_S = 60.0


async def desired(call: Call) -> Response:
    """Answer the envelope as soon as its number is over `have`, or 204 when the time is up."""
    have, wait_s = call.whole("have", 0), wait_seconds(call)
    changes = call.cloud.changes
    ends_at = call.now.timestamp() + wait_s
    await to_thread.run_sync(_note_presence, call)
    while True:
        seen = changes.number(Counter.DESIRED)
        envelope = await to_thread.run_sync(_find, call, have)
        remaining_s = ends_at - datetime.now(UTC).timestamp()
        if envelope is not None:
            return Response(envelope, media_type="application/json")
        if remaining_s <= 0 or changes.closed:
            return Response(status_code=204)
        await changes.wait(Counter.DESIRED, seen, remaining_s)


def wait_seconds(call: Call) -> float:
    """Return the query parameter `wait_s`; raise `BadInputError` when it is over the limit."""
    wait_s = call.number("wait_s", 0)
    if wait_s > MAX_WAIT_S:
        raise BadInputError(f"wait_s must be at most {MAX_WAIT_S:g}, not {wait_s:g}: ask again afterwards")
    return wait_s


def reported(call: Call) -> None:
    """Keep what the device says of itself."""
    with call.cloud.database.transaction() as connection:
        twins.store_report(connection, call.caller.device, call.body, call.now)


def store_telemetry(call: Call) -> TelemetryAck:
    """Store a batch and say so."""
    with call.cloud.database.transaction() as connection:
        return telemetry.store(connection, call.caller.device, call.body, call.now)


def _note_presence(call: Call) -> None:
    with call.cloud.database.transaction() as connection:
        devices.mark_seen(connection, call.caller.device, call.now)


def _find(call: Call, have: int) -> bytes | None:
    with call.cloud.database.reading() as connection:
        return twins.desired_after(connection, call.caller.device, have)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/device/desired",
        access=Access.DEVICE,
        summary="The signed desired state of the device that asks, once its number is over `have`; else 204.",
        handler=desired,
        gives=Envelope,
        query={"have": "the number that the device has", "wait_s": "how long to wait for a higher one, at most 60 s"},
    ),
    Endpoint(
        method="POST",
        path="/v1/device/reported",
        access=Access.DEVICE,
        summary="What the device says of itself.",
        handler=reported,
        takes=ReportedState,
        status=204,
    ),
    Endpoint(
        method="POST",
        path="/v1/device/telemetry",
        access=Access.DEVICE,
        summary="Store measurements; the answer names the last one that may be forgotten.",
        handler=store_telemetry,
        takes=TelemetryBatch,
        gives=TelemetryAck,
    ),
)
