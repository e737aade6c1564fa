"""`edgewright cloud`: run the service and manage trusted publishers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgewright.command_line import common_options, duration, print_json

if TYPE_CHECKING:
    from cloud.service import Started

DEFAULT_STATE = Path("~/.local/share/edgewright/cloud")
EMBEDDED_STATE = Path(".edgewright/cloud")
"""State directory of the cloud that the SDK starts for a folder (`edgewright.sdk.workspace`)."""


@click.group()
def group() -> None:
    """Run the service."""


@group.command()
@click.option(
    "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True, help="State directory of the cloud."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: the port of the last run, at first 8443. 0: a free port.")
@click.option("--name", "names", multiple=True, help="Host name for devices; they connect to the first one.")
@click.option("--trust", multiple=True, type=click.Path(path_type=Path), help="Public key of a trusted publisher.")
@click.option("--broker", "broker_url", metavar="URL", help="External MQTT broker, such as mqtts://host:8883.")
@click.option("--no-broker", is_flag=True, help="Run without MQTT; devices use HTTPS.")
@click.option(
    "--broker-port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="0: a free port, kept for the next run.",
)
@click.option(
    "--iothub",
    "iothub_file",
    type=click.Path(path_type=Path),
    help="File with the connection string of a service at an IoT Hub; devices of the same name get their state through it.",
)
@click.option("--iothub-ca", "iothub_ca_file", type=click.Path(path_type=Path), help="Authority of the hub, PEM.")
@click.option("--iothub-module", default="", help="Module of each device that runs the agent, instead of the device itself.")
@click.option("--database", "database_url", metavar="URL", help="Database, such as postgresql+psycopg://…; SQLite by default.")
@click.option("--new-token", is_flag=True, help="Replace the operator token; clients then need the new one.")
@click.option(
    "--device-days",
    type=click.IntRange(1, 90),
    default=90,
    show_default=True,
    help="Validity of device certificates in days; devices renew them after two thirds of it.",
)
@click.option("--plain-http", is_flag=True, help="Listen without TLS, on a loopback address; without devices and broker.")
@click.option(
    "--stop-after", "idle_stop_s", type=duration, metavar="DURATION", help="Stop after this time without a request, as 1h."
)
@common_options
def up(
    state: Path,
    host: str,
    port: int | None,
    names: tuple[str, ...],
    trust: tuple[Path, ...],
    broker_url: str | None,
    no_broker: bool,
    broker_port: int,
    iothub_file: Path | None,
    iothub_ca_file: Path | None,
    iothub_module: str,
    database_url: str | None,
    new_token: bool,
    device_days: int,
    plain_http: bool,
    idle_stop_s: float | None,
    as_json: bool,
) -> None:
    """Run the cloud until it is stopped: API, registry, MQTT broker and console.

    The first start creates the certificate authority, certificates, keys and operator token. A later start refuses a state
    directory of which one of them is missing, damaged or of another cloud.
    """
    if broker_url is not None and no_broker:
        raise click.UsageError("--broker and --no-broker cannot be used together: omit one")
    from cloud.service import Settings, run

    settings = Settings(
        state=state.expanduser(),
        host=host,
        port=port,
        names=names,
        trust=trust,
        broker_url=broker_url,
        broker_port=broker_port,
        with_broker=not no_broker,
        database_url=database_url,
        new_token=new_token,
        device_days=device_days,
        plain_http=plain_http,
        idle_stop_s=idle_stop_s,
        iothub_file=iothub_file,
        iothub_ca_file=iothub_ca_file,
        iothub_module=iothub_module,
    )
    run(settings, lambda started: _announce(started, as_json=as_json))


@group.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help=f"State directory of the cloud. [default: {EMBEDDED_STATE} if it exists, else {DEFAULT_STATE}]",
)
@click.option("--endpoints", is_flag=True, help="Stop its endpoints as well; the next start of the cloud starts them again.")
@common_options
def down(state: Path | None, endpoints: bool, as_json: bool) -> None:
    """Stop the cloud of a state directory, and wait until it has ended. Endpoints continue."""
    from cloud.endpoints.supervisors import running_services, stop_services
    from cloud.state import directory as state_directory

    state = state or _default_state()
    stopped = state_directory.stop(state.expanduser())
    if endpoints:
        stop_services(state.expanduser())
    services = running_services(state.expanduser())
    if as_json:
        print_json({"state": str(state), "stopped": stopped, "endpoints": services})
        return
    click.echo(f"stopped the cloud of {state}" if stopped else f"no cloud was running in {state}")
    for each in services:
        click.echo(f"endpoint {each.endpoint} continues at {each.address}; 'edgewright cloud down --endpoints' stops it")


@group.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help=f"State directory of the cloud. [default: {EMBEDDED_STATE} if it exists, else {DEFAULT_STATE}]",
)
@common_options
def status(state: Path | None, as_json: bool) -> None:
    """Show whether the cloud of a state directory runs, and its endpoints."""
    from cloud.endpoints.supervisors import running_services
    from cloud.state import directory as state_directory

    state = state or _default_state()
    is_running = state_directory.is_running(state.expanduser())
    services = running_services(state.expanduser())
    if as_json:
        print_json({"state": str(state), "running": is_running, "endpoints": services})
        return
    click.echo(f"the cloud of {state} {'runs' if is_running else 'does not run'}")
    for each in services:
        click.echo(f"endpoint {each.endpoint} is {each.state} at {each.address}")


@group.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help=f"State directory of the cloud. [default: {EMBEDDED_STATE} if it exists, else {DEFAULT_STATE}]",
)
@common_options
def trust(key: Path, state: Path | None, as_json: bool) -> None:
    """Trust packages signed with the private key of the public key file KEY, also in a running cloud."""
    from cloud.state import directory as state_directory

    state = state or _default_state()
    key_id = state_directory.trust(state.expanduser(), key)
    if as_json:
        print_json({"key_id": key_id})
    else:
        click.echo(f"trusted by the cloud of {state}: {key_id}")


def _default_state() -> Path:
    return EMBEDDED_STATE if EMBEDDED_STATE.is_dir() else DEFAULT_STATE


def _announce(started: Started, *, as_json: bool) -> None:
    state, broker = started.state, started.broker
    if as_json:
        print_json({"url": started.url, "state": str(state.path), "client_file": str(state.client_file), "broker": broker})
    else:
        click.echo(f"cloud     {started.url}")
        click.echo(f"state     {state.path}")
        click.echo(f"token     in {state.token_file}")
        click.echo(f"clients   export EDGEWRIGHT_CLOUD={shlex.quote(str(state.client_file))}")
        click.echo(f"mqtt      {f'{broker.host}:{broker.port}' if broker else 'none; devices use HTTPS'}")
        if sys.stdout.isatty():  # do not write the credential to a log file
            click.echo(f"console   {started.url}/#token={state.operator_token}")
    sys.stdout.flush()
