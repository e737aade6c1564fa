"""`edgewright telemetry`: copy the measurements of devices to Azure Data Explorer."""

from __future__ import annotations

import math
import time
from pathlib import Path

import click

from edgewright.command_line import duration, print_json
from edgewright.commands.cloud_options import cloud_options
from edgewright.kusto.cluster import Cluster
from edgewright.kusto.copying import Copy, Retries
from edgewright.kusto.credentials import check_uri, connection_settings
from edgewright.kusto.position import Position, Target
from edgewright.kusto.table import DEFAULT_TABLE, Table, creation_commands
from edgewright.sdk import CloudClient


@click.group("telemetry")
def group() -> None:
    """Copy the measurements of devices to Azure Data Explorer."""


@group.command("table")
@click.option("--table", "table_name", default=DEFAULT_TABLE, show_default=True, help="Name of the table.")
def show_table(table_name: str) -> None:
    """Print the commands that create the table in a database, for its administrator."""
    for command in creation_commands(Table("database", table_name)):
        click.echo(f"{command}\n")


@group.command("ingest")
@click.option("--to", "uri", required=True, metavar="URI", help="Address of the cluster: https://NAME.REGION.kusto.windows.net.")
@click.option("--database", required=True, help="Database of the cluster.")
@click.option("--table", "table_name", default=DEFAULT_TABLE, show_default=True, help="Table of the measurements.")
@click.option("--no-create", is_flag=True, help="Do not create what is missing; see 'telemetry table'.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="File with an access token, read before each request."
)
@click.option("--managed-identity", metavar="ID", help="Client id of a managed identity, or 'system'.")
@click.option(
    "--position",
    "position_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default="telemetry-position.json",
    show_default=True,
    help="File that stores how far the copy has come.",
)
@click.option("--follow", is_flag=True, help="Continue with new measurements until interrupted.")
@click.option("--every", "every_s", type=duration, default="10s", show_default=True, help="Wait between looks with --follow.")
@click.option(
    "--give-up",
    "give_up_s",
    type=duration,
    default="5m",
    show_default=True,
    help="Longest time without an answer; not with --follow.",
)
@cloud_options
def ingest(
    uri: str,
    *,
    database: str,
    table_name: str,
    no_create: bool,
    token_file: Path | None,
    managed_identity: str | None,
    position_file: Path,
    follow: bool,
    every_s: float,
    give_up_s: float,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Copy the stored measurements to a cluster of Azure Data Explorer.

    A copy continues at its stored position. A request without an answer is repeated, and the view TABLEOnce then still counts
    each measurement once. Without a credential option, that of the environment or of 'az login' is used.
    """
    address, table = check_uri(uri), Table(database, table_name)
    settings = connection_settings(address, token_file=token_file, managed_identity=managed_identity)
    retries = Retries(math.inf if follow else give_up_s, lambda text: click.echo(f"edgewright: {text}", err=True))
    with CloudClient.connect(cloud) as client, Cluster(address, settings, table) as cluster:
        target = Target(cloud=client.context.url, cluster=address, database=database, table=table_name)
        copy = Copy(client, cluster, Position.read(position_file, target), position_file, retries)
        if not no_create:
            retries.run(cluster.create_table)
        copy.run_once()
        _report(copy, as_json=as_json)
        while follow:
            time.sleep(every_s)
            if copy.run_once():
                _report(copy, as_json=as_json)


def _report(copy: Copy, *, as_json: bool) -> None:
    if as_json:
        print_json({"measurements": copy.rows, "requests": copy.requests, "position": copy.path})
        return
    table = copy.cluster.table
    sent = f"sent {copy.rows:,} measurements in {copy.requests:,} requests to {table.database}.{table.name}"
    click.echo(f"{sent}; {table.view} has each once")
