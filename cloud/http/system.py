"""Health and metrics of the service."""

from __future__ import annotations

from starlette.responses import Response

from cloud.auth import Access
from cloud.db.database import Counter
from cloud.fleet import devices, telemetry
from cloud.http.endpoint import Call, Endpoint
from cloud.registry import models

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def health(call: Call) -> dict[str, str]:
    """Return the status of the service; an unreachable database is answered with 503."""
    call.cloud.database.ping()
    mqtt = call.cloud.mqtt
    return {"status": "ok", "mqtt": "none" if mqtt is None else "connected" if mqtt.connected else "disconnected"}


def metrics(call: Call) -> Response:
    """Return the metrics in the Prometheus text format."""
    cloud = call.cloud
    with cloud.database.reading() as connection:
        records = devices.records(connection, call.now)
        versions = models.newest_versions(connection)
        measurements = telemetry.count(connection)
        issued, expired = devices.count_certificates(connection, call.now)
    values = [
        ("edgewright_devices", "gauge", "enrolled devices", sum(not each.revoked for each in records)),
        ("edgewright_devices_online", "gauge", "devices online", sum(each.online for each in records)),
        ("edgewright_device_certificates_total", "counter", "certificates issued to devices", issued),
        ("edgewright_devices_expired", "gauge", "devices without a valid certificate", expired),
        ("edgewright_models", "gauge", "models with a published version", len(versions)),
        ("edgewright_model_versions", "gauge", "published versions of all models", sum(each.version for each in versions)),
        ("edgewright_measurements_total", "counter", "measurements stored", measurements),
        (
            "edgewright_changes_total",
            "counter",
            "changes of devices, models, rollouts and telemetry",
            cloud.changes.number(Counter.CHANGES),
        ),
        (
            "edgewright_mqtt_connected",
            "gauge",
            "1 while connected to the broker",
            int(bool(cloud.mqtt and cloud.mqtt.connected)),
        ),
    ]
    lines = [f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value}\n" for name, kind, text, value in values]
    return Response("".join([*lines, _requests(cloud.requests)]), headers={"Content-Type": _METRICS_TYPE})


def _requests(counts: dict[tuple[str, str, int], int]) -> str:
    name = "edgewright_http_requests_total"
    lines = [f"# HELP {name} answered requests\n# TYPE {name} counter\n"]
    for (method, route, status), number in sorted(counts.items()):
        lines.append(f'{name}{{method="{method}",route="{route}",status="{status}"}} {number}\n')
    return "".join(lines)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/healthz",
        access=Access.ANYONE,
        summary="Status of the service.",
        handler=health,
        response_type=dict[str, str],
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        access=Access.OPERATOR,
        summary="Metrics in the Prometheus text format.",
        handler=metrics,
        response_type=bytes,
        media_types=("text/plain",),
    ),
)
