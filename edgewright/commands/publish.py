"""`edgewright publish`: sign a package and make it the next version in the cloud."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from edgewright.command_line import print_json
from edgewright.commands.cloud_options import cloud_options, size_text, transfer_progress
from edgewright.contracts.signing import load_private_key
from edgewright.sdk import CloudClient


@click.command("publish")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="PEM private key that signs.")
@click.option(
    "--expires-days",
    type=click.IntRange(1, 36500),
    default=365,
    show_default=True,
    help="Lifetime of the signature.",
)
@cloud_options
def command(package: Path, key: Path, expires_days: int, cloud: str | None, as_json: bool) -> None:
    """Sign a package and publish it as the next version.

    PACKAGE is an OCI layout directory or one tar of it. Only blobs that the cloud lacks are sent. If another version is
    published at the same moment, this one gets the number after it. If the source of the package is registered under the same
    name, the new version holds the source files, too.
    """
    signing_key = load_private_key(key)
    with CloudClient.connect(cloud) as client, transfer_progress("pushing") as on_progress:
        version = client.publish(package, signing_key, valid=timedelta(days=expires_days), on_progress=on_progress)
    if as_json:
        print_json(version)
    else:
        count = len(version.variants)
        contents = f"{count} variant{'' if count == 1 else 's'}, {size_text(version.size_bytes)}"
        made_from = "" if version.source_version is None else f", made from {version.model}:{version.source_version}"
        click.echo(f"published {version.model}:{version.version}: {contents}{made_from}")
        click.echo(f"next: edgewright rollouts create {version.model}:{version.version}")
