"""`edgewright pipelines`: published pipelines of scripts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from edgewright.command_line import print_json, print_table
from edgewright.commands.cloud_options import cloud_options, moment, transfer_progress
from edgewright.contracts.names import check_name, parse_reference
from edgewright.contracts.pipelines.jobs import PipelineRecord, PublishRequest
from edgewright.sdk import CloudClient
from edgewright.sdk.pipelines.file import push_pipeline, read_pipeline

_COLUMNS = ("pipeline", "version", "steps", "parameters", "enabled", "published", "description")


@click.group("pipelines")
def group() -> None:
    """Publish pipelines of scripts, which jobs and schedules run."""


@group.command("publish")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--description", help="One line for people; default: that of FILE.")
@cloud_options
def publish(name: str, file: Path, description: str | None, cloud: str | None, as_json: bool) -> None:
    """Publish the pipeline in FILE, a YAML file, as the next version of NAME."""
    check_name(name, "pipeline")
    content = read_pipeline(file)
    with CloudClient.connect(cloud, start_embedded=True) as client:
        with transfer_progress("sending") as on_progress:
            definition = push_pipeline(client, file, content, on_progress)
        request = PublishRequest(definition=definition, description=description or content.description)
        record = client.publish_pipeline(name, request)
    if as_json:
        print_json(record)
    else:
        click.echo(f"published {record.pipeline}:{record.version}; run it: edgewright jobs run {record.pipeline}")
        click.echo(f"or by POST {record.endpoint}")


@group.command("list")
@cloud_options
def list_pipelines(cloud: str | None, as_json: bool) -> None:
    """List the newest version of each pipeline."""
    with CloudClient.connect(cloud) as client:
        records = client.pipelines()
    _print(records, as_json=as_json)


@group.command("show")
@click.argument("name")
@cloud_options
def show(name: str, cloud: str | None, as_json: bool) -> None:
    """Show the versions of the pipeline NAME, and the steps of the newest."""
    with CloudClient.connect(cloud) as client:
        records = client.pipeline_versions(name)
    _print(records, as_json=as_json)
    if not as_json:
        click.echo()
        steps = records[-1].definition.steps
        rows = [
            (step.name, step.script, ", ".join(sorted(step.needs())) or "-", ", ".join(step.outputs) or "-") for step in steps
        ]
        print_table(("step", "script", "after", "outputs"), rows)
        click.echo(f"\nrun it by POST {records[-1].endpoint}")


@group.command("enable")
@click.argument("reference", metavar="NAME[:VERSION]")
@cloud_options
def enable(reference: str, cloud: str | None, as_json: bool) -> None:
    """Permit jobs of a version of a pipeline, or of all versions."""
    _enable(reference, cloud, is_enabled=True, as_json=as_json)


@group.command("disable")
@click.argument("reference", metavar="NAME[:VERSION]")
@cloud_options
def disable(reference: str, cloud: str | None, as_json: bool) -> None:
    """Start no more jobs of a version of a pipeline, or of all versions."""
    _enable(reference, cloud, is_enabled=False, as_json=as_json)


def _enable(text: str, cloud: str | None, *, is_enabled: bool, as_json: bool) -> None:
    reference = parse_reference(text)
    with CloudClient.connect(cloud) as client:
        records = client.enable_pipeline(reference, is_enabled=is_enabled)
    _print(records, as_json=as_json)


def _print(records: tuple[PipelineRecord, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(records)
        return
    print_table(_COLUMNS, [_row(record) for record in records])


def _row(record: PipelineRecord) -> tuple[object, ...]:
    parameters = ", ".join(f"{name}={value}" for name, value in record.definition.parameters.items()) or "-"
    is_enabled = "yes" if record.is_enabled else "no"
    head = record.pipeline, record.version, len(record.definition.steps), parameters, is_enabled
    return (*head, moment(record.created_at), record.description or "-")


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names) or "-"
