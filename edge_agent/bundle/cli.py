"""`edgewright agent bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from edgewright.command_line import common_options, print_json


@click.command()
@click.option("--arch", type=click.Choice(["amd64", "arm64"]), required=True, help="Architecture of the devices.")
@click.option("--python", type=click.Choice(["3.11", "3.12", "3.13"]), required=True, help="Python version of the devices.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The tar to write.")
@click.option(
    "--enrol",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with an enrolment token to put into the bundle, which is then a secret.",
)
@common_options
def bundle(arch: str, python: str, output: Path | None, enrol: Path | None, as_json: bool) -> None:
    """Write one tar that installs the agent on a device without internet."""
    from edge_agent.bundle.make import make_bundle

    target = output or Path(f"edgewright-agent-{arch}-py{python}.tar")
    make_bundle(target, arch=arch, python=python, token=enrol.read_text("utf-8").strip() if enrol else None)
    size = target.stat().st_size
    if enrol:
        click.echo(f"{target} contains an enrolment token: keep it secret (mode 0600)", err=True)
    if as_json:
        print_json({"path": str(target), "size_bytes": size, "arch": arch, "python": python})
    else:
        click.echo(f"wrote {target}: {size} bytes. On the device, as root: tar -xf it, then sh install.sh")
