"""The commands of `edgewright iotedge`."""

from __future__ import annotations

import click

from edgewright.commands.iotedge.manifests import check, manifest, preview
from edgewright.commands.iotedge.push import push
from edgewright.commands.iotedge.run import run


@click.group("iotedge")
def group() -> None:
    """Deploy models as modules of Azure IoT Edge."""


for command in (manifest, check, preview, push, run):
    group.add_command(command)
