"""`edgewright models`: published models and their versions."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgewright.command_line import print_json, print_table
from edgewright.commands.cloud_options import cloud_options, moment, size_text
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.names import check_name
from edgewright.sdk import CloudClient


@click.group("models")
def group() -> None:
    """List and show published models."""


@group.command("list")
@cloud_options
def list_models(cloud: str | None, as_json: bool) -> None:
    """List the newest version of every model."""
    with CloudClient.connect(cloud) as client:
        newest = client.models()
    if as_json:
        print_json(newest)
    else:
        _print_versions(newest)


@group.command("show")
@click.argument("name")
@cloud_options
def show(name: str, cloud: str | None, as_json: bool) -> None:
    """Show all versions of one model."""
    check_name(name, "model")
    with CloudClient.connect(cloud) as client:
        versions = client.model_versions(name)
    if as_json:
        print_json(versions)
    else:
        _print_versions(versions)


def _print_versions(versions: Sequence[ModelVersion]) -> None:
    columns = ("model", "version", "published", "size", "variants", "signed by", "index")
    print_table(
        columns,
        [
            (
                version.model,
                version.version,
                moment(version.published_at),
                size_text(version.size_bytes),
                " ".join(version.variants),
                version.key_id[:16],
                version.index.digest[:19],
            )
            for version in versions
        ],
    )
