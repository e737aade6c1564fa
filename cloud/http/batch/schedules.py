"""Schedules: create, list, enable, delete."""

from __future__ import annotations

from pathlib import Path

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.pipelines import operations, schedules
from cloud.pipelines.engine import content_of
from edgewright.contracts.pipelines.jobs import EnableRequest
from edgewright.contracts.pipelines.schedules import ScheduleRecord, ScheduleRequest
from edgewright.errors import NotFoundError


def create(call: Call) -> ScheduleRecord:
    """Create or replace a schedule."""
    request: ScheduleRequest = call.body
    folder = Path(request.folder)
    if request.folder and not folder.is_dir():
        raise NotFoundError(f"{request.folder}: no such folder on the cloud's machine; create it first")
    content = content_of(folder) if request.folder else ""
    with call.cloud.database.transaction() as connection:
        operations.check_schedule(call.cloud, connection, request)
        return schedules.create(connection, call.path("schedule"), call.cloud.owner, request, content=content, now=call.now)


def list_schedules(call: Call) -> list[ScheduleRecord]:
    """Return every schedule."""
    with call.cloud.database.reading() as connection:
        return [each.record for each in schedules.all_schedules(connection)]


def show_schedule(call: Call) -> ScheduleRecord:
    """Return one schedule."""
    with call.cloud.database.reading() as connection:
        return schedules.one_schedule(connection, call.path("schedule")).record


def enable(call: Call) -> ScheduleRecord:
    """Enable or disable a schedule."""
    with call.cloud.database.transaction() as connection:
        return schedules.enable(connection, call.path("schedule"), is_enabled=call.body.is_enabled, now=call.now)


def delete(call: Call) -> ScheduleRecord:
    """Delete a schedule."""
    with call.cloud.database.transaction() as connection:
        return schedules.remove(connection, call.path("schedule"))


ENDPOINTS = (
    Endpoint(
        method="PUT",
        path="/v1/schedules/{schedule}",
        access=Access.OPERATOR,
        summary="Create or replace a schedule of a published pipeline.",
        handler=create,
        request_type=ScheduleRequest,
        response_type=ScheduleRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/schedules",
        access=Access.OPERATOR,
        summary="Every schedule, by name.",
        handler=list_schedules,
        response_type=list[ScheduleRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/schedules/{schedule}",
        access=Access.OPERATOR,
        summary="One schedule.",
        handler=show_schedule,
        response_type=ScheduleRecord,
    ),
    Endpoint(
        method="PUT",
        path="/v1/schedules/{schedule}/enabled",
        access=Access.OPERATOR,
        summary="Enable or disable a schedule.",
        handler=enable,
        request_type=EnableRequest,
        response_type=ScheduleRecord,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/schedules/{schedule}",
        access=Access.OPERATOR,
        summary="Delete a schedule; its jobs stay.",
        handler=delete,
        response_type=ScheduleRecord,
    ),
)
