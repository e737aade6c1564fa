"""Devices: list, show, label and revoke them; for operators."""

from __future__ import annotations

from cloud.auth import Access
from cloud.fleet import benchmarks, devices
from cloud.http.endpoint import Call, Endpoint
from cloud.rollouts import benchmark_jobs, operations
from edgewright.contracts.connection.benchmark_jobs import BenchmarkJobRecord, BenchmarkJobRequest
from edgewright.contracts.connection.benchmarks import BenchmarkResult
from edgewright.contracts.messages import DeviceRecord


def list_devices(call: Call) -> list[DeviceRecord]:
    """Return every device."""
    with call.cloud.database.reading() as connection:
        return devices.records(connection, call.now)


def show_device(call: Call) -> DeviceRecord:
    """Return one device."""
    with call.cloud.database.reading() as connection:
        return devices.record(connection, call.path("device"), call.now)


def replace_labels(call: Call) -> DeviceRecord:
    """Replace the labels of a device."""
    with call.cloud.database.transaction() as connection:
        devices.set_labels(connection, call.path("device"), call.body)
        return devices.record(connection, call.path("device"), call.now)


def revoke_device(call: Call) -> DeviceRecord:
    """Revoke a device in the database, which every HTTPS request consults, and end its MQTT session (protocol.md P63)."""
    cloud, device = call.cloud, call.path("device")
    with cloud.database.transaction() as connection:
        devices.revoke(connection, device, call.now)
    if cloud.mqtt is not None:
        cloud.mqtt.disconnect_device(device)
    return show_device(call)


def remove_workload(call: Call) -> DeviceRecord:
    """Remove a workload of a device."""
    key = call.cloud.state.signing_key
    with call.cloud.database.transaction() as connection:
        return operations.remove_workload(connection, key, call.path("device"), call.path("workload"), call.now)


def list_benchmarks(call: Call) -> list[BenchmarkResult]:
    """Return the shared benchmarks."""
    with call.cloud.database.reading() as connection:
        return benchmarks.results(connection, call.text("model"))


def forget_benchmarks(call: Call) -> list[BenchmarkResult]:
    """Delete the shared benchmarks of a model."""
    with call.cloud.database.transaction() as connection:
        return benchmarks.forget(connection, call.path("model"))


def create_benchmark_job(call: Call) -> BenchmarkJobRecord:
    """Let devices measure a model version."""
    with call.cloud.database.transaction() as connection:
        return benchmark_jobs.create(connection, call.cloud.blobs, call.body, call.now)


def show_benchmark_job(call: Call) -> BenchmarkJobRecord:
    """Return one benchmark job."""
    with call.cloud.database.reading() as connection:
        return benchmark_jobs.record(connection, _job(call), call.now)


def cancel_benchmark_job(call: Call) -> BenchmarkJobRecord:
    """Cancel a benchmark job."""
    with call.cloud.database.transaction() as connection:
        return benchmark_jobs.cancel(connection, _job(call), call.now)


def _job(call: Call) -> int:
    return call.path_number("job", "; 'edgewright bench NAME:VERSION --device DEVICE' prints it")


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/devices",
        access=Access.OPERATOR,
        summary="All devices with their twins, labels and presence.",
        handler=list_devices,
        response_type=list[DeviceRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/devices/{device}",
        access=Access.OPERATOR,
        summary="One device.",
        handler=show_device,
        response_type=DeviceRecord,
    ),
    Endpoint(
        method="PUT",
        path="/v1/devices/{device}/labels",
        access=Access.OPERATOR,
        summary="Replace the labels of a device.",
        handler=replace_labels,
        request_type=dict[str, str],
        response_type=DeviceRecord,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/devices/{device}/workloads/{workload}",
        access=Access.OPERATOR,
        summary="Remove a workload of a device: it stops, and its slots are freed; the others continue.",
        handler=remove_workload,
        response_type=DeviceRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/devices/{device}/revoke",
        access=Access.OPERATOR,
        summary="Revoke a device and all of its certificates.",
        handler=revoke_device,
        response_type=DeviceRecord,
    ),
    Endpoint(
        method="GET",
        path="/v1/benchmarks",
        access=Access.OPERATOR,
        summary="Benchmarks that devices with the same machine share, by model and machine.",
        handler=list_benchmarks,
        response_type=list[BenchmarkResult],
        query={"model": "only benchmarks of this model"},
    ),
    Endpoint(
        method="DELETE",
        path="/v1/benchmarks/{model}",
        access=Access.OPERATOR,
        summary="Delete the shared benchmarks of a model, so that the next device measures again; returns the deleted ones.",
        handler=forget_benchmarks,
        response_type=list[BenchmarkResult],
    ),
    Endpoint(
        method="POST",
        path="/v1/benchmark-jobs",
        access=Access.OPERATOR,
        summary="Let devices measure the variants of a model version.",
        handler=create_benchmark_job,
        request_type=BenchmarkJobRequest,
        response_type=BenchmarkJobRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/benchmark-jobs/{job}",
        access=Access.OPERATOR,
        summary="One benchmark job with its devices and their results.",
        handler=show_benchmark_job,
        response_type=BenchmarkJobRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/benchmark-jobs/{job}/cancel",
        access=Access.OPERATOR,
        summary="Cancel a benchmark job on the devices that have not finished it.",
        handler=cancel_benchmark_job,
        response_type=BenchmarkJobRecord,
    ),
)
