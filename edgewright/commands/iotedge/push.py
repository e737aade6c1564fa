"""`edgewright iotedge push`: send a manifest to a hub, for one device or as an automatic deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewright.command_line import common_options, print_json
from edgewright.commands.cloud_options import label
from edgewright.commands.iotedge.files import connection_string, read_manifest
from edgewright.errors import BadInputError
from edgewright.iotedge.validation import faults_of, is_layered, warnings_of

if TYPE_CHECKING:
    from edgewright.iotedge.hub import Hub

HUB_VARIABLE = "EDGEWRIGHT_IOTHUB"


@click.command("push")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--hub",
    "hub_path",
    type=click.Path(path_type=Path),
    help=f"File with the connection string of a policy, or state directory of a local hub. [default: ${HUB_VARIABLE}, the text]",
)
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="PEM file with the authority of the hub's certificate.")
@click.option("--device", metavar="ID", help="IoT Edge device that gets the manifest.")
@click.option("--configuration", "name", metavar="NAME", help="Name of an automatic deployment.")
@click.option(
    "--target-condition", metavar="CONDITION", help="Devices of the deployment, as in \"tags.site='north'\"; * for all."
)
@click.option("--priority", type=click.IntRange(0, 2**31 - 1), help="Of two deployments the higher one decides. [default: 0]")
@click.option("--layered", is_flag=True, help="The manifest is a layered one.")
@click.option("--label", "labels", multiple=True, type=label, metavar="NAME=VALUE", help="Label of the deployment.")
@click.option("--update", "updates", is_flag=True, help="Change the condition, priority and labels of an existing deployment.")
@common_options
def push(
    *,
    file: Path,
    hub_path: Path | None,
    ca_file: Path | None,
    device: str | None,
    name: str | None,
    target_condition: str | None,
    priority: int | None,
    layered: bool,
    labels: tuple[tuple[str, str], ...],
    updates: bool,
    as_json: bool,
) -> None:
    """Push a manifest to an IoT Hub, to one device or to all that a condition targets.

    The hub is Azure's, or one of 'edgewright iothub up'. The connection string is never shown.
    """
    from edgewright.iotedge.hub import Deployment

    if (device is None) is (name is None):
        raise BadInputError("either --device or --configuration must be given")
    if device is not None and (target_condition is not None or priority is not None or layered or labels or updates):
        raise BadInputError(
            "--target-condition, --priority, --layered, --label and --update belong to --configuration: omit them with --device"
        )
    manifest = _checked(file, layered=layered, has_device=device is not None)
    if name is not None and not target_condition:
        raise BadInputError("--configuration must have --target-condition, as in \"tags.site='north'\", or * for all devices")
    hub = _connect(hub_path, ca_file)
    if device is not None:
        hub.apply(device, manifest)
        result: dict[str, Any] = {"device": device}
        line = f"device {device} has the manifest {file}"
    else:
        deployment = Deployment(
            name=str(name), target_condition=str(target_condition), priority=priority or 0, labels=dict(labels)
        )
        if layered and not hub.has_base_below(deployment.priority):
            click.echo(
                f"warning: no standard deployment has a priority below {deployment.priority}, so the layer has no effect yet",
                err=True,
            )
        answer = hub.deploy(deployment, manifest, updates=updates)
        targeted = ((answer.get("systemMetrics") or {}).get("results") or {}).get("targetedCount")
        result = {"configuration": deployment.name, "priority": deployment.priority, "targeted_devices": targeted}
        count = "" if targeted is None else f", now targets {targeted} device{'' if targeted == 1 else 's'}"
        line = f"deployment {deployment.name} has the manifest {file}: priority {deployment.priority}{count}"
    print_json(result) if as_json else click.echo(line)


def _checked(file: Path, *, layered: bool, has_device: bool) -> dict[str, Any]:
    """Return a manifest without faults; a layered one needs --layered, and devices to which a base applies."""
    manifest = read_manifest(file)
    faults = faults_of(manifest)
    if faults:
        raise BadInputError(f"{file} has a fault at {faults[0]} (all of them: edgewright iotedge check {file})")
    if is_layered(manifest) and has_device:
        raise BadInputError(f"{file} must be a standard manifest for one device, but it is layered: push it with --configuration")
    if is_layered(manifest) is not layered and not has_device:
        kind = "a layered manifest: add --layered" if not layered else "a standard manifest: omit --layered"
        raise BadInputError(f"{file} is {kind}")
    for warning in warnings_of(manifest):
        click.echo(f"warning: {warning}", err=True)
    return manifest


def _connect(hub_path: Path | None, ca_file: Path | None) -> Hub:
    """Return the hub of a connection string in a file or the environment, or of a local hub's state directory."""
    from cloud.iothub.state import OWNER_POLICY, read_address
    from edgewright.contracts.iothub.connection_strings import ServiceAccess, parse_service
    from edgewright.iotedge.hub import Hub

    if hub_path is not None and hub_path.is_dir():
        address = read_address(hub_path)
        host = f"[{address.https_host}]" if ":" in address.https_host else address.https_host
        access = ServiceAccess(f"{host}:{address.https_port}", OWNER_POLICY, address.key)
        return Hub(access, ca_file or address.ca_file)
    return Hub(parse_service(connection_string(hub_path, HUB_VARIABLE)), ca_file)
