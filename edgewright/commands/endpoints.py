"""`edgewright endpoints`: scoring services of the cloud's machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, labels_text, moment, transfer_progress
from edgewright.contracts.endpoints import (
    DeployedModel,
    Deployment,
    DeployRequest,
    EndpointAuth,
    EndpointLabels,
    EndpointRecord,
    EndpointTarget,
    KeyName,
    TelemetryItem,
    UpdateRequest,
    check_endpoint_name,
)
from edgewright.contracts.names import parse_reference
from edgewright.errors import BadInputError
from edgewright.kubernetes.cli import command as render
from edgewright.kubernetes.cluster_cli import group as cluster
from edgewright.sdk import CloudClient
from edgewright.serving.traffic.cli import route_command, traffic_command

_PLAIN = (
    "trust",
    "environment",
    "image",
    "port",
    "grpc_port",
    "cpu",
    "memory_gb",
    "gpus",
    "replicas",
    "workers",
    "init_timeout_s",
    "scoring_timeout_s",
)


def deployment_options(command: Any) -> Any:
    """Add the options that describe a deployment; None stands for an option that was not given."""
    options = (
        click.option("--model", "models", multiple=True, metavar="NAME[:V|@ALIAS]", help="A model (repeat for more)."),
        click.option("--script", type=click.Path(path_type=Path), help="Entry script with init() and run()."),
        click.option("--source", type=click.Path(path_type=Path), help="Folder of the script; all its files are sent."),
        click.option("--trust", is_flag=True, default=None, help="Open a pickle: you made the model, or trust its author."),
        click.option("--environment", metavar="NAME[:V]", help="Environment of the script."),
        click.option(
            "--image", metavar="REFERENCE", help="Container image with the server and the model; default: the cloud builds it."
        ),
        click.option("--target", type=click.Choice([each.value for each in EndpointTarget]), help="Default: local."),
        click.option("--port", type=click.IntRange(1, 65535), help="Default: a free port, which stays the same."),
        click.option("--grpc-port", type=click.IntRange(0, 65535), help="Also answer gRPC on this port; 0: a free port."),
        click.option("--cpu", type=float, help="Processors that it may use."),
        click.option("--memory-gb", type=float, help="Memory that it may use, in GB."),
        click.option("--gpus", type=click.IntRange(0), help="GPUs that it may use."),
        click.option("--replicas", type=click.IntRange(1), help="Server processes; default: 1."),
        click.option("--workers", type=click.IntRange(1), help="Worker processes of the script in each server; default: 1."),
        click.option("--auth", type=click.Choice([each.value for each in EndpointAuth]), help="Default: key."),
        click.option("--variable", "variables", type=label, multiple=True, help="A variable, as in LEVEL=2 (repeat for more)."),
        click.option("--init-timeout", "init_timeout_s", type=float, help="Seconds until it must be ready; default: 300."),
        click.option("--scoring-timeout", "scoring_timeout_s", type=float, help="Seconds per request; default: 60."),
        click.option("--description", help="One line for people."),
        click.option("--tag", "tags", type=label, multiple=True, help="A tag, as in stage=test (repeat for more)."),
        click.option("--property", "properties", type=label, multiple=True, help="A property, which never changes."),
        click.option("--no-wait", is_flag=True, help="Return before the endpoint is ready."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("endpoints")
def group() -> None:
    """Deploy, show, update and delete scoring endpoints."""


@group.command("deploy")
@click.argument("name")
@click.option("--overwrite", is_flag=True, help="Replace the deployment of an existing endpoint of this name.")
@deployment_options
@cloud_options
def deploy(name: str, *, overwrite: bool, no_wait: bool, cloud: str | None, as_json: bool, **options: Any) -> None:
    """Deploy models, or an entry script with its models, as the endpoint NAME."""
    check_endpoint_name(name)
    labels = EndpointLabels(
        description=options["description"] or "", tags=dict(options["tags"]), properties=dict(options["properties"])
    )
    with CloudClient.connect(cloud, start_embedded=True) as client:
        fields = _fields_of(client, options)
        request = DeployRequest(deployment=Deployment(**fields), labels=labels, overwrite=overwrite)
        record = client.deploy_endpoint(name, request)
        _finish(client, record, no_wait=no_wait, as_json=as_json)


@group.command("update")
@click.argument("name")
@deployment_options
@cloud_options
def update(name: str, *, no_wait: bool, cloud: str | None, as_json: bool, **options: Any) -> None:
    """Change the endpoint NAME without a lost request; what is not given stays as it is.

    Models and tags that are given replace all of the present ones.
    """
    with CloudClient.connect(cloud) as client:
        present = client.endpoint(name)
        fields = _fields_of(client, options)
        request = UpdateRequest(
            deployment=replace(present.deployment, **fields) if fields else None,
            description=options["description"],
            tags=dict(options["tags"]) or None,
            properties=dict(options["properties"]) or None,
        )
        if request == UpdateRequest():
            raise BadInputError(f"an update must change something: give an option, or see 'edgewright endpoints show {name}'")
        record = client.update_endpoint(name, request)
        _finish(client, record, no_wait=no_wait, as_json=as_json)


@group.command("list")
@cloud_options
def list_endpoints(cloud: str | None, as_json: bool) -> None:
    """List all endpoints."""
    with CloudClient.connect(cloud) as client:
        records = client.endpoints()
    if as_json:
        print_json(records)
        return
    rows = [(each.endpoint, each.state, _content(each), each.deployment.target, each.scoring_uri) for each in records]
    print_table(("endpoint", "state", "serves", "target", "address"), rows)


@group.command("show")
@click.argument("name")
@cloud_options
def show(name: str, cloud: str | None, as_json: bool) -> None:
    """Show one endpoint: its state and the reason, its address and its deployment."""
    with CloudClient.connect(cloud) as client:
        record = client.endpoint(name)
    if as_json:
        print_json(record)
    else:
        print_table(("field", "value"), _rows(record))


@group.command("logs")
@click.argument("name")
@click.option("--lines", type=click.IntRange(1, 100_000), default=5000, show_default=True, help="Number of last lines.")
@cloud_options
def logs(name: str, lines: int, cloud: str | None, as_json: bool) -> None:
    """Print the log of an endpoint: output of its script, tracebacks, starts and ends."""
    with CloudClient.connect(cloud) as client:
        found = client.endpoint_logs(name, lines=lines)
    if as_json:
        print_json(found)
        return
    for line in found:
        click.echo(line)


@group.command("telemetry")
@click.argument("name")
@click.option("--metric", metavar="NAME", help="Only items of this name.")
@click.option("--kind", type=click.Choice(["metric", "event", "trace", "exception"]), help="Only items of this kind.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most this many, the newest.")
@cloud_options
def telemetry(name: str, metric: str | None, kind: str | None, limit: int, cloud: str | None, as_json: bool) -> None:
    """Show measurements, events and exceptions that the script of an endpoint recorded with TelemetryClient."""
    with CloudClient.connect(cloud) as client:
        items = client.endpoint_telemetry(name, metric=metric, kind=kind, limit=limit)
    if as_json:
        print_json(items)
        return
    rows = [(moment(each.at), each.kind, each.name or None, _shown(each), each.request) for each in items]
    print_table(("time", "kind", "name", "value", "request"), rows)


@group.command("keys")
@click.argument("name")
@click.option("--regenerate", type=click.Choice([each.value for each in KeyName]), help="Replace this key.")
@cloud_options
def keys(name: str, regenerate: str | None, cloud: str | None, as_json: bool) -> None:
    """Print the two keys of an endpoint, or replace one; the other one stays valid."""
    with CloudClient.connect(cloud) as client:
        found = client.endpoint_keys(name) if regenerate is None else client.regenerate_key(name, KeyName(regenerate))
    if as_json:
        print_json(found)
    else:
        print_table(("key", "value"), [("primary", found.primary), ("secondary", found.secondary)])


@group.command("token")
@click.argument("name")
@click.option("--valid", type=duration, default="1h", show_default=True, help="Validity, as in 30m or 1h; at most 30d.")
@cloud_options
def token(name: str, valid: float, cloud: str | None, as_json: bool) -> None:
    """Print a token that an endpoint accepts in place of a key until it expires."""
    with CloudClient.connect(cloud) as client:
        issued = client.endpoint_token(name, valid_s=valid)
    if as_json:
        print_json(issued)
    else:
        click.echo(issued.token)


@group.command("delete")
@click.argument("name")
@cloud_options
def delete(name: str, cloud: str | None, as_json: bool) -> None:
    """Delete an endpoint: drain its requests, then remove its processes and files."""
    with CloudClient.connect(cloud) as client:
        client.delete_endpoint(name)
    click.echo("{}" if as_json else f"deleted {name}")


def _shown(item: TelemetryItem) -> object:
    """Return the value of an item, or the last line of its text, and what the script added."""
    main = item.text.strip().splitlines()[-1:] if item.value is None else [f"{item.value:g}"]
    return " ".join([*main, *(f"{name}={value}" for name, value in sorted(item.fields.items()))]) or None


def _fields_of(client: CloudClient, options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a deployment that the options give; the script is sent."""
    fields: dict[str, Any] = {name: options[name] for name in _PLAIN if options[name] is not None}
    for name, kind in (("target", EndpointTarget), ("auth", EndpointAuth)):
        if options[name] is not None:
            fields[name] = kind(options[name])
    if options["variables"]:
        fields["variables"] = dict(options["variables"])
    if options["models"]:
        versions = [client.model_version(parse_reference(text)) for text in options["models"]]
        fields["models"] = tuple(DeployedModel(name=each.model, version=each.version) for each in versions)
    if options["script"] is not None:
        with transfer_progress("pushing") as on_progress:
            fields["entry_script"], fields["files"] = client.push_script(
                options["script"], options["source"], on_progress=on_progress
            )
    elif options["source"] is not None:
        raise BadInputError("--source is the folder of an entry script: name the script with --script")
    return fields


def _finish(client: CloudClient, record: EndpointRecord, *, no_wait: bool, as_json: bool) -> None:
    """Wait until an endpoint is ready, and print its address."""
    if not no_wait:
        record = client.wait_for_endpoint(record.endpoint)
    if as_json:
        print_json(record)
        return
    beside = f" and {record.grpc_address} (gRPC)" if record.grpc_address else ""
    click.echo(f"{record.endpoint} is {record.state}: {record.scoring_uri}{beside}")
    if record.deployment.auth is not EndpointAuth.OFF:
        click.echo(f"its keys: edgewright endpoints keys {record.endpoint}")


def _content(record: EndpointRecord) -> str:
    deployment = record.deployment
    return " ".join([*(str(model) for model in deployment.models), deployment.entry_script or deployment.image]).strip()


def _rows(record: EndpointRecord) -> list[tuple[str, object]]:
    deployment, labels = record.deployment, record.labels
    return [
        ("endpoint", record.endpoint),
        ("state", record.state),
        ("reason", record.reason or None),
        ("deployment", record.generation),
        ("answering", "no deployment" if record.answering is None else record.answering),
        ("address", record.scoring_uri),
        ("swagger", record.swagger_uri),
        ("gRPC", record.grpc_address or None),
        ("target", deployment.target),
        ("models", " ".join(map(str, deployment.models)) or None),
        ("script", deployment.entry_script or None),
        ("environment", deployment.environment or None),
        ("image", deployment.image or None),
        ("processors", deployment.cpu),
        ("memory GB", deployment.memory_gb),
        ("replicas", deployment.replicas),
        ("workers", deployment.workers),
        ("authentication", deployment.auth),
        ("variables", " ".join(sorted(deployment.variables)) or None),
        ("description", labels.description or None),
        ("tags", labels_text(labels.tags)),
        ("properties", labels_text(labels.properties)),
        ("created", moment(record.created_at)),
        ("changed", moment(record.changed_at)),
    ]


for command in (render, cluster, route_command, traffic_command):
    group.add_command(command)
