"""`edgewright endpoints cluster`: apply, show and delete endpoints of a Kubernetes cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from edgewright.command_line import common_options, duration, print_json, print_table
from edgewright.contracts import wire
from edgewright.contracts.endpoints import check_endpoint_name
from edgewright.kubernetes import running
from edgewright.kubernetes.cli import endpoint_of, endpoint_options
from edgewright.kubernetes.cluster import Cluster
from edgewright.kubernetes.state import ClusterStatus


def _cluster_options(command: Any) -> Any:
    """Add the options that choose a cluster."""
    context = click.option("--context", default="", help="Context of the kubeconfig; default: the current one.")
    namespace = click.option("--namespace", default="", help="Namespace; default: that of the context.")
    return context(namespace(common_options(command)))


@click.group("cluster")
def group() -> None:
    """Run endpoints in a Kubernetes cluster.

    The kubeconfig is $EDGEWRIGHT_KUBECONFIG, else $KUBECONFIG, else ~/.kube/config.
    """


@group.command("apply")
@click.argument("name")
@endpoint_options
@click.option("--context", default="", help="Context of the kubeconfig; default: the current one.")
@click.option("--force-conflicts", is_flag=True, help="Take over fields that another tool set to other values.")
@click.option("--timeout", type=duration, default="10m", show_default=True, help="Time in which it must be ready.")
@click.option("--no-wait", is_flag=True, help="Return before it is ready; objects of an earlier version stay.")
@common_options
def apply(
    name: str, *, context: str, force_conflicts: bool, timeout: float, no_wait: bool, as_json: bool, **options: Any
) -> None:
    """Apply an endpoint to a cluster, and wait until its pods are ready.

    The objects are those of 'edgewright endpoints render'. An object of another owner, or a field of another manager, is refused.
    """
    endpoint, keys = endpoint_of(name, options)
    cluster = Cluster.connect(context, endpoint.namespace)
    endpoint = replace(endpoint, namespace=cluster.namespace)
    applied = running.apply_endpoint(cluster, endpoint, keys, force=force_conflicts)
    for each in applied:
        for conflict in each.took_over:
            click.echo(f"took over {conflict}", err=True)
    if no_wait:
        status = running.read_status(cluster, name)
        removed = []
    else:
        status = running.wait_until_ready(cluster, name, timeout_s=timeout, on_change=_print_progress())
        removed = running.delete_leftovers(cluster, endpoint)
    if as_json:
        print_json({"status": wire.to_plain(status), "applied": applied, "removed": removed})
        return
    click.echo(f"applied {', '.join(f'{each.kind} {each.name}' for each in applied)}")
    if removed:
        click.echo(f"removed {', '.join(f'{each.kind} {each.name}' for each in removed)}")
    _print_status(status)


@group.command("status")
@click.argument("name")
@_cluster_options
def status_command(name: str, *, context: str, namespace: str, as_json: bool) -> None:
    """Show an endpoint of a cluster: state and reason of each deployment, and addresses."""
    check_endpoint_name(name)
    status = running.read_status(Cluster.connect(context, namespace), name)
    if as_json:
        print_json(status)
    else:
        _print_status(status)


@group.command("logs")
@click.argument("name")
@click.option(
    "--lines", type=click.IntRange(1, 100_000), default=500, show_default=True, help="Number of last lines of each pod."
)
@click.option("--previous", is_flag=True, help="Output before the last restart.")
@click.option("--events", is_flag=True, help="Events of the cluster in place of the output.")
@_cluster_options
def logs(name: str, *, lines: int, previous: bool, events: bool, context: str, namespace: str, as_json: bool) -> None:
    """Print the output of an endpoint's pods, or their events."""
    check_endpoint_name(name)
    cluster = Cluster.connect(context, namespace)
    if events:
        _print_events(running.read_events(cluster, name), as_json=as_json)
        return
    found = dict(running.read_logs(cluster, name, lines=lines, previous=previous))
    if as_json:
        print_json(found)
        return
    for pod, text in found.items():
        for line in text.splitlines():
            click.echo(f"{pod}  {line}")


@group.command("delete")
@click.argument("name")
@_cluster_options
def delete(name: str, *, context: str, namespace: str, as_json: bool) -> None:
    """Delete an endpoint of a cluster: the objects with its labels, and no others."""
    check_endpoint_name(name)
    removed = running.delete_endpoint(Cluster.connect(context, namespace), name)
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"deleted {', '.join(f'{each.kind} {each.name}' for each in removed)}")


def _print_progress() -> Callable[[ClusterStatus], None]:
    def show(status: ClusterStatus) -> None:
        for each in status.deployments:
            text = f"{each.deployment}: {each.ready} of {each.desired} ready, {each.updated} of the present version"
            click.echo(text + (f"; {each.reason}" if each.reason else ""), err=True)
        sys.stderr.flush()

    return show


def _print_status(status: ClusterStatus) -> None:
    rows = [
        (each.deployment, each.state, f"{each.ready}/{each.desired}", each.image, each.reason or None)
        for each in status.deployments
    ]
    print_table(("deployment", "state", "ready", "image", "reason"), rows)
    click.echo(f"{status.endpoint} is {status.state} in {status.namespace} of {status.context}{_at(status)}")


def _at(status: ClusterStatus) -> str:
    return f": {', '.join(status.addresses)}" if status.addresses else ""


def _print_events(events: list[dict[str, Any]], *, as_json: bool) -> None:
    rows = [
        (
            each.get("lastTimestamp") or each.get("eventTime"),
            each.get("type"),
            (each.get("involvedObject") or {}).get("name"),
            each.get("reason"),
            each.get("message"),
        )
        for each in events
    ]
    columns = ("time", "type", "object", "reason", "message")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
