"""`edgewright cloud`: run the service, and say whose packages it believes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgewright.command_line import common_options, print_json

if TYPE_CHECKING:
    from cloud.service import Started

DEFAULT_STATE = Path("~/.local/share/edgewright/cloud")


@click.group()
def group() -> None:
    """Run the service."""


@group.command()
@click.option(
    "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True, help="Where everything is kept."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; TLS is always on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: the one of the last run, 8443 at first. 0: a free one.")
@click.option("--name", "names", multiple=True, help="A name under which devices reach this machine; the first is told to them.")
@click.option("--trust", multiple=True, type=click.Path(path_type=Path), help="A publisher's public key to believe.")
@click.option("--broker", "broker_url", metavar="URL", help="An MQTT broker, as mqtts://host:8883, instead of our own.")
@click.option("--no-broker", is_flag=True, help="No MQTT: devices use HTTPS.")
@click.option(
    "--broker-port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0: a free one, the same next time."
)
@click.option("--database", "database_url", metavar="URL", help="A database, as postgresql+psycopg://…, instead of SQLite.")
@click.option(
    "--device-days",
    type=click.IntRange(1, 90),
    default=90,
    show_default=True,
    help="How long a device's certificate lives; shorter is stricter. Devices renew theirs at two thirds of it.",
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
    database_url: str | None,
    device_days: int,
    as_json: bool,
) -> None:
    """Run the cloud until it is ended: API, registry, MQTT broker and console.

    Everything that it needs (authority, certificates, keys, operator token) is made on the first start.
    """
    if broker_url is not None and no_broker:
        raise click.UsageError("--broker and --no-broker exclude each other: leave one out")
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
        device_days=device_days,
    )
    run(settings, lambda started: _announce(started, as_json=as_json))


@group.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True, help="The cloud's directory.")
@common_options
def trust(key: Path, state: Path, as_json: bool) -> None:
    """Believe packages signed with the private half of KEY, from now on, also in a cloud that runs."""
    from cloud.state import directory as state_directory

    identity = state_directory.trust(state.expanduser(), key)
    if as_json:
        print_json({"key_id": identity})
    else:
        click.echo(f"trusted: {identity}")


def _announce(started: Started, *, as_json: bool) -> None:
    state, broker = started.state, started.broker
    if as_json:
        print_json({"url": started.url, "state": str(state.path), "client_file": str(state.client_file), "broker": broker})
    else:
        click.echo(f"cloud     {started.url}")
        click.echo(f"state     {state.path}")
        click.echo(f"token     in {state.token_file}")
        click.echo(f"clients   export EDGEWRIGHT_CLOUD={state.client_file}")
        click.echo(f"mqtt      {f'{broker.host}:{broker.port}' if broker else 'none; devices use HTTPS'}")
        if sys.stdout.isatty():  # a log file is no place for a credential
            click.echo(f"console   {started.url}/#token={state.operator_token}")
    sys.stdout.flush()
