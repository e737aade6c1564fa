"""The HTTPS API of a device: wait for desired state, report, send telemetry; the bodies are the same as over MQTT."""

from __future__ import annotations

from datetime import UTC, datetime

from anyio import to_thread
from starlette.responses import Response

from cloud.auth import Access
from cloud.db.database import Counter
from cloud.fleet import benchmark_jobs, benchmarks, devices, telemetry, twins
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.connection.benchmark_jobs import BenchmarkOrder, BenchmarkProgress
from edgewright.contracts.connection.benchmarks import BenchmarkAnswer, BenchmarkClaim
from edgewright.contracts.messages import ReportedState, TelemetryAck, TelemetryBatch
from edgewright.contracts.signing import Envelope


async def desired(call: Call) -> Response:
    """Return the envelope as soon as its number is greater than `have`, or 204 after `wait_s` seconds."""
    have, wait_s = call.whole("have", 0), call.wait_s()
    changes = call.cloud.changes
    ends_at = call.now.timestamp() + wait_s
    await to_thread.run_sync(_mark_seen, call)
    while True:
        seen = changes.number(Counter.DESIRED)
        envelope = await to_thread.run_sync(_find, call, have)
        remaining_s = ends_at - datetime.now(UTC).timestamp()
        if envelope is not None:
            return Response(envelope, media_type="application/json")
        if remaining_s <= 0 or changes.closed:
            return Response(status_code=204)
        await changes.wait(Counter.DESIRED, seen, remaining_s)


def reported(call: Call) -> None:
    """Store the reported state of the device."""
    with call.cloud.database.transaction() as connection:
        twins.store_report(connection, call.caller.device, call.body, call.now)


def store_telemetry(call: Call) -> TelemetryAck:
    """Store a batch and acknowledge it."""
    with call.cloud.database.transaction() as connection:
        return telemetry.store(connection, call.caller.device, call.body, call.now)


def claim_benchmark(call: Call) -> BenchmarkAnswer:
    """Return a shared benchmark, or the right to measure."""
    with call.cloud.database.transaction() as connection:
        return benchmarks.claim(connection, call.caller.device, call.body, call.now)


def store_benchmark(call: Call) -> None:
    """Store the benchmark of the device that holds the claim."""
    certificate, key = call.caller.certificate, call.cloud.state.signing_key
    assert certificate is not None, "a device authenticates with a certificate"
    with call.cloud.database.transaction() as connection:
        benchmarks.store(connection, key, call.caller.device, certificate, call.body, call.now)


def start_benchmark_job(call: Call) -> BenchmarkOrder:
    """Return the content of the device's job."""
    with call.cloud.database.transaction() as connection:
        return benchmark_jobs.start(connection, call.caller.device, call.path_number("job"), call.now)


def report_benchmark_job(call: Call) -> None:
    """Store the progress of the device with its job."""
    with call.cloud.database.transaction() as connection:
        benchmark_jobs.progress(connection, call.caller.device, call.path_number("job"), call.body, call.now)


def _mark_seen(call: Call) -> None:
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
        summary="The signed desired state of the device as soon as its number is greater than `have`, else 204.",
        handler=desired,
        response_type=Envelope,
        other_statuses=(204, 507),
        numbers=("have", "wait_s"),
        query={"have": "number that the device has", "wait_s": "maximum time to wait for a higher one, at most 60 s"},
    ),
    Endpoint(
        method="POST",
        path="/v1/device/reported",
        access=Access.DEVICE,
        summary="Report the state of the device.",
        handler=reported,
        request_type=ReportedState,
        status=204,
    ),
    Endpoint(
        method="POST",
        path="/v1/device/telemetry",
        access=Access.DEVICE,
        summary="Store measurements; the response names the last one that the device may delete.",
        handler=store_telemetry,
        request_type=TelemetryBatch,
        response_type=TelemetryAck,
    ),
    Endpoint(
        method="POST",
        path="/v1/device/benchmarks/claim",
        access=Access.DEVICE,
        summary="The benchmark of a model on machines like the device's, or the right to measure it, or neither: ask again.",
        handler=claim_benchmark,
        request_type=BenchmarkClaim,
        response_type=BenchmarkAnswer,
    ),
    Endpoint(
        method="POST",
        path="/v1/device/benchmarks",
        access=Access.DEVICE,
        summary="Store the benchmark of a device, a `BenchmarkResult` signed by its key, for devices with the same machine.",
        handler=store_benchmark,
        request_type=Envelope,
        status=204,
    ),
    Endpoint(
        method="POST",
        path="/v1/device/benchmark-jobs/{job}/start",
        access=Access.DEVICE,
        summary="The content of the device's benchmark job, which an acknowledgement of telemetry names.",
        handler=start_benchmark_job,
        response_type=BenchmarkOrder,
    ),
    Endpoint(
        method="POST",
        path="/v1/device/benchmark-jobs/{job}/progress",
        access=Access.DEVICE,
        summary="Report that the device waits for another one, has finished its benchmark job, or has failed.",
        handler=report_benchmark_job,
        request_type=BenchmarkProgress,
        status=204,
    ),
)
