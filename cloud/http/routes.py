"""All endpoints of the service in matching order; the OpenAPI document describes exactly these."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http import changes, console, device, devices, enrolment, models, oci, openapi, renewal, rollouts, system, telemetry
from cloud.http.batch import jobs, pipelines, schedules
from cloud.http.endpoint import Call, Endpoint
from cloud.http.serving import endpoints, environments, images


def describe(_call: Call) -> dict[str, object]:
    """Return the OpenAPI document."""
    return openapi.document(ENDPOINTS)


ENDPOINTS: tuple[Endpoint, ...] = (
    *console.ENDPOINTS,
    *system.ENDPOINTS,
    Endpoint(
        method="GET",
        path="/openapi.json",
        access=Access.ANYONE,
        summary="This OpenAPI document.",
        handler=describe,
        response_type=bytes,
        media_types=("application/json",),
    ),
    *enrolment.ENDPOINTS,
    *renewal.ENDPOINTS,
    *device.ENDPOINTS,
    *devices.ENDPOINTS,
    *models.ENDPOINTS,
    *environments.ENDPOINTS,
    *endpoints.ENDPOINTS,
    *images.ENDPOINTS,
    *pipelines.ENDPOINTS,
    *jobs.ENDPOINTS,
    *schedules.ENDPOINTS,
    *rollouts.ENDPOINTS,
    *telemetry.ENDPOINTS,
    *changes.ENDPOINTS,
    *oci.ENDPOINTS,
)
