"""`edgewright endpoints route` and `edgewright endpoints traffic`: several deployments at one address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import uvloop

from edgewright.command_line import common_options, print_json, print_table
from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError
from edgewright.serving.http.listening import listen
from edgewright.serving.traffic.file import TrafficFile, read_traffic
from edgewright.serving.traffic.router import route
from edgewright.serving.traffic.rules import Traffic, parse_address, parse_shares

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("route")
@click.argument("file", type=_FILE)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free port.")
@click.option("--ready-file", type=_FILE, help="Write the address to this file (JSON) when ready.")
def route_command(file: Path, *, port: int, ready_file: Path | None) -> None:
    """Split the requests of one address of this machine between deployments.

    FILE has the deployments and their shares; `edgewright endpoints traffic` writes it, also while this command runs.
    """
    traffic = TrafficFile(file)
    listening = listen("127.0.0.1", port)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def ready() -> None:
        if ready_file is not None:
            write_atomically(ready_file, wire.encode({"url": address}))
        click.echo(f"routing at {address}, deployments: {', '.join(traffic.traffic.deployments)}", err=True)

    uvloop.run(route(listening, traffic, ready))


@click.command("traffic")
@click.argument("file", type=_FILE)
@click.option("--deployment", "added", multiple=True, metavar="NAME=ADDRESS", help="Add or move one: HOST:PORT or its URL.")
@click.option("--traffic", "shares", metavar="SHARES", help='Percent of each deployment, as in "blue=90 green=10".')
@click.option("--mirror-traffic", "mirror", metavar="SHARES", help='Copy to a deployment, as in "green=10"; "" ends it.')
@click.option("--remove", multiple=True, metavar="NAME", help="Remove a deployment without traffic.")
@common_options
def traffic_command(
    file: Path,
    *,
    added: tuple[str, ...],
    shares: str | None,
    mirror: str | None,
    remove: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show or change the shares of the deployments in FILE.

    A router that runs uses the change with its next request. The first deployment of a new file gets all requests.
    """
    traffic = _changed(file, dict(map(_deployment, added)), shares, mirror)
    for name in remove:
        traffic = traffic.without(name)
    if added or remove or shares is not None or mirror is not None:
        write_atomically(file, wire.encode_readable(traffic))
    if as_json:
        print_json(wire.to_plain(traffic))
        return
    rows = [
        [name, address, f"{traffic.traffic.get(name, 0)} %", f"{traffic.mirror.get(name, 0)} %"]
        for name, address in traffic.deployments.items()
    ]
    print_table(["deployment", "address", "traffic", "mirror"], rows)


def _changed(file: Path, added: dict[str, str], shares: str | None, mirror: str | None) -> Traffic:
    if not file.exists():
        if not added:
            raise BadInputError(f"{file} must exist, or --deployment NAME=ADDRESS be given to create it")
        first = {next(iter(added)): 100}
        present = Traffic(deployments=added, traffic=first if shares is None else parse_shares(shares))
    else:
        present = read_traffic(file)
    return replace(
        present,
        deployments={**present.deployments, **added},
        traffic=present.traffic if shares is None else parse_shares(shares),
        mirror=present.mirror if mirror is None else parse_shares(mirror),
    )


def _deployment(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not (name and equals and address):
        raise BadInputError(f"--deployment must be NAME=ADDRESS, as in green=127.0.0.1:5002, not {text!r}")
    return name, parse_address(address)
