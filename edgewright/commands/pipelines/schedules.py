"""`edgewright schedules`: run published pipelines by the clock, or when a folder has new data."""

from __future__ import annotations

import click

from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, moment
from edgewright.contracts.pipelines.definition import Value
from edgewright.contracts.pipelines.schedules import ScheduleRecord, ScheduleRequest
from edgewright.sdk import CloudClient

_COLUMNS = ("schedule", "pipeline", "when", "enabled", "next", "last job", "reason")


@click.group("schedules")
def group() -> None:
    """Run published pipelines by the clock, or when a folder has new data."""


@group.command("create")
@click.argument("name")
@click.argument("pipeline", metavar="PIPELINE[:VERSION]")
@click.option("--cron", default="", help="Five fields, as in '0 6 * * 1-5': minute, hour, day, month, day of the week.")
@click.option("--time-zone", default="UTC", show_default=True, help="Time zone of --cron, as in Europe/Paris.")
@click.option("--folder", default="", help="Run when this folder of the cloud's machine has new or changed files.")
@click.option("--poll", "poll_s", type=duration, default="60s", show_default=True, help="Time between looks at the folder.")
@click.option("--parameter", "parameters", type=label, multiple=True, metavar="NAME=VALUE", help="Value (repeat for more).")
@click.option("--experiment", default="default", show_default=True, help="Name under which the jobs are found together.")
@click.option("--description", default="", help="One line for people.")
@cloud_options
def create(
    name: str,
    pipeline: str,
    *,
    cron: str,
    time_zone: str,
    folder: str,
    poll_s: float,
    parameters: tuple[tuple[str, str], ...],
    experiment: str,
    description: str,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Create or replace the schedule NAME of a published pipeline.

    Times that pass while the cloud does not run start one job, not one each.
    """
    values: dict[str, Value] = dict(parameters)
    request = ScheduleRequest(
        pipeline=pipeline,
        cron=cron,
        time_zone=time_zone,
        folder=folder,
        poll_s=poll_s,
        experiment=experiment,
        parameters=values,
        description=description,
    )
    with CloudClient.connect(cloud) as client:
        record = client.create_schedule(name, request)
    _print((record,), as_json=as_json)


@group.command("list")
@cloud_options
def list_schedules(cloud: str | None, as_json: bool) -> None:
    """List all schedules."""
    with CloudClient.connect(cloud) as client:
        records = client.schedules()
    _print(records, as_json=as_json)


@group.command("enable")
@click.argument("name")
@cloud_options
def enable(name: str, cloud: str | None, as_json: bool) -> None:
    """Enable the schedule NAME; times that have passed start no job."""
    with CloudClient.connect(cloud) as client:
        _print((client.enable_schedule(name, is_enabled=True),), as_json=as_json)


@group.command("disable")
@click.argument("name")
@cloud_options
def disable(name: str, cloud: str | None, as_json: bool) -> None:
    """Disable the schedule NAME."""
    with CloudClient.connect(cloud) as client:
        _print((client.enable_schedule(name, is_enabled=False),), as_json=as_json)


@group.command("delete")
@click.argument("name")
@cloud_options
def delete(name: str, cloud: str | None, as_json: bool) -> None:
    """Delete the schedule NAME; its jobs stay."""
    with CloudClient.connect(cloud) as client:
        record = client.delete_schedule(name)
    if as_json:
        print_json(record)
    else:
        click.echo(f"deleted schedule {record.schedule}")


def _print(records: tuple[ScheduleRecord, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(records[0] if len(records) == 1 else records)
        return
    print_table(_COLUMNS, [_row(record) for record in records])


def _row(record: ScheduleRecord) -> tuple[object, ...]:
    request = record.request
    when = f"{request.cron} ({request.time_zone})" if request.cron else f"new files in {request.folder}"
    next_at = "-" if record.next_at is None else moment(record.next_at)
    is_enabled = "yes" if record.is_enabled else "no"
    return (record.schedule, request.pipeline, when, is_enabled, next_at, record.last_job, record.reason or "-")
