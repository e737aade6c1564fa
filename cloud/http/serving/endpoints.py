"""Scoring endpoints: deploy, list, show, update and delete them; their keys and logs."""

from __future__ import annotations

from cloud.auth import Access
from cloud.endpoints import operations, telemetry
from cloud.endpoints.engine import folder_of
from cloud.endpoints.store import all_endpoints, one_endpoint
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.endpoints import (
    DeployRequest,
    EndpointKeys,
    EndpointLog,
    EndpointRecord,
    EndpointTelemetry,
    EndpointToken,
    EndpointTokenRequest,
    RegenerateRequest,
    UpdateRequest,
)
from edgewright.errors import BadInputError
from edgewright.serving.supervision.logs import last_lines

MAX_LOG_LINES = 100_000


def deploy(call: Call) -> EndpointRecord:
    """Create an endpoint, or replace its deployment."""
    operations.check_target(call.body.deployment)
    with call.cloud.database.transaction() as connection:
        return operations.deploy(call.cloud, connection, call.path("endpoint"), call.body, call.now).record()


def list_endpoints(call: Call) -> list[EndpointRecord]:
    """Return every endpoint."""
    with call.cloud.database.reading() as connection:
        return [each.record() for each in all_endpoints(connection)]


def show_endpoint(call: Call) -> EndpointRecord:
    """Return one endpoint."""
    with call.cloud.database.reading() as connection:
        return one_endpoint(connection, call.path("endpoint")).record()


def update_endpoint(call: Call) -> EndpointRecord:
    """Change an endpoint."""
    with call.cloud.database.transaction() as connection:
        return operations.update(call.cloud, connection, call.path("endpoint"), call.body, call.now).record()


def delete_endpoint(call: Call) -> EndpointRecord:
    """Delete an endpoint."""
    with call.cloud.database.transaction() as connection:
        return operations.delete(connection, call.path("endpoint"), call.now).record()


def show_keys(call: Call) -> EndpointKeys:
    """Return the keys of an endpoint."""
    with call.cloud.database.reading() as connection:
        return one_endpoint(connection, call.path("endpoint")).keys


def regenerate_key(call: Call) -> EndpointKeys:
    """Replace one key of an endpoint; the server has it before the answer."""
    with call.cloud.database.transaction() as connection:
        keys = operations.regenerate_key(connection, call.path("endpoint"), call.body, call.now)
    folder = folder_of(call.cloud, call.path("endpoint"))
    if folder.keys.exists():
        folder.write_keys(keys)
    return keys


def issue_token(call: Call) -> EndpointToken:
    """Issue a token that an endpoint accepts in place of a key."""
    with call.cloud.database.reading() as connection:
        return operations.issue_token(connection, call.path("endpoint"), call.body, call.now)


def show_logs(call: Call) -> EndpointLog:
    """Return the last lines of an endpoint's log."""
    count = call.whole("lines", 5000)
    if not 1 <= count <= MAX_LOG_LINES:
        raise BadInputError(f"lines must be 1 to {MAX_LOG_LINES}, not {count}")
    with call.cloud.database.reading() as connection:
        endpoint = one_endpoint(connection, call.path("endpoint"))
    return EndpointLog(lines=tuple(last_lines(folder_of(call.cloud, endpoint.name).service.log, count)))


def show_telemetry(call: Call) -> EndpointTelemetry:
    """Return the newest telemetry of an endpoint's script."""
    query = telemetry.Query(name=call.text("name"), kind=call.text("kind"), limit=call.whole("limit", 1000))
    with call.cloud.database.reading() as connection:
        endpoint = one_endpoint(connection, call.path("endpoint"))
    lines = last_lines(folder_of(call.cloud, endpoint.name).service.log, MAX_LOG_LINES)
    return EndpointTelemetry(items=telemetry.find(lines, query))


ENDPOINTS = (
    Endpoint(
        method="PUT",
        path="/v1/endpoints/{endpoint}",
        access=Access.OPERATOR,
        summary="Deploy models and a script as an endpoint; with overwrite, also onto an existing one.",
        handler=deploy,
        request_type=DeployRequest,
        response_type=EndpointRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/endpoints",
        access=Access.OPERATOR,
        summary="Every endpoint, by name.",
        handler=list_endpoints,
        response_type=list[EndpointRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/endpoints/{endpoint}",
        access=Access.OPERATOR,
        summary="One endpoint.",
        handler=show_endpoint,
        response_type=EndpointRecord,
    ),
    Endpoint(
        method="PATCH",
        path="/v1/endpoints/{endpoint}",
        access=Access.OPERATOR,
        summary="Change the deployment or the labels of an endpoint without a lost request.",
        handler=update_endpoint,
        request_type=UpdateRequest,
        response_type=EndpointRecord,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/endpoints/{endpoint}",
        access=Access.OPERATOR,
        summary="Delete an endpoint: drain its requests, then remove its processes and files.",
        handler=delete_endpoint,
        response_type=EndpointRecord,
    ),
    Endpoint(
        method="GET",
        path="/v1/endpoints/{endpoint}/keys",
        access=Access.OPERATOR,
        summary="The keys of an endpoint.",
        handler=show_keys,
        response_type=EndpointKeys,
    ),
    Endpoint(
        method="POST",
        path="/v1/endpoints/{endpoint}/keys",
        access=Access.OPERATOR,
        summary="Replace one key of an endpoint; the other one stays valid.",
        handler=regenerate_key,
        request_type=RegenerateRequest,
        response_type=EndpointKeys,
    ),
    Endpoint(
        method="POST",
        path="/v1/endpoints/{endpoint}/token",
        access=Access.OPERATOR,
        summary="A token that an endpoint accepts in place of a key until it expires.",
        handler=issue_token,
        request_type=EndpointTokenRequest,
        response_type=EndpointToken,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/endpoints/{endpoint}/logs",
        access=Access.OPERATOR,
        summary="The last lines of an endpoint's log.",
        handler=show_logs,
        response_type=EndpointLog,
        numbers=("lines",),
        query={"lines": "Number of lines; default: 5000."},
    ),
    Endpoint(
        method="GET",
        path="/v1/endpoints/{endpoint}/telemetry",
        access=Access.OPERATOR,
        summary="Telemetry that the script of an endpoint recorded, oldest first.",
        handler=show_telemetry,
        response_type=EndpointTelemetry,
        numbers=("limit",),
        query={
            "name": "only items of this name",
            "kind": "only items of this kind: metric, event, trace, exception",
            "limit": "maximum number of items; 1000 by default",
        },
    ),
)
