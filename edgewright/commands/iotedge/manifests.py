"""`edgewright iotedge manifest|check|preview`: write, check and combine deployment manifests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgewright.command_line import common_options, print_json, print_table
from edgewright.commands.cloud_options import cloud_options
from edgewright.commands.iotedge.files import read_manifest
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import parse_reference
from edgewright.errors import BadInputError, NotFoundError, OperationError
from edgewright.iotedge import manifest as manifests
from edgewright.iotedge.create_options import ContainerOptions
from edgewright.iotedge.layering import Layer, effective
from edgewright.iotedge.manifest import Module, RegistryLogin
from edgewright.iotedge.validation import OLD_RUNTIMES, RUNTIME, faults_of, is_layered, warnings_of
from edgewright.registries.references import parse_image_reference
from edgewright.sdk import CloudClient


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _layer(text: str) -> tuple[int, Path]:
    priority, colon, path = text.partition(":")
    if not (colon and path and priority.isdecimal()):
        raise click.BadParameter(f"must be PRIORITY:FILE, as in 20:ocr.json, not {text!r}")
    return int(priority), Path(path)


@click.command("manifest")
@click.argument("image")
@click.option("--module", "name", help="Name of the module; default: that of the image, without '-image'.")
@click.option("--base", type=click.Path(path_type=Path), help="Manifest that the module is added to; default: a new one.")
@click.option("--layered", is_flag=True, help="Write a layered manifest, which adds the module to the base of each device.")
@click.option("--runtime", type=click.Choice([RUNTIME, *OLD_RUNTIMES]), help=f"Version of IoT Edge. [default: {RUNTIME}]")
@click.option("--port", type=int, default=8080, show_default=True, help="Port of the device at which the model is scored.")
@click.option("--no-port", is_flag=True, help="Publish no port; other modules reach the model by the module's name.")
@click.option(
    "--keys", "keys_folder", metavar="DIR", help="Folder of the device with keys.json. [default: /etc/edgewright/MODULE]"
)
@click.option("--cpus", type=float, help="Limit of processors, as in 1.5.")
@click.option("--memory-mib", type=int, help="Limit of memory in MiB.")
@click.option("--gpus", default="", metavar="all|IDS", help="NVIDIA GPUs for the module.")
@click.option(
    "--device", "devices", multiple=True, metavar="PATH", help="Device node for the module, such as a board's /dev/ttyUSB0."
)
@click.option("--env", "environment", multiple=True, type=_name_and_value, metavar="NAME=VALUE", help="Environment variable.")
@click.option(
    "--restart", type=click.Choice(["always", "never", "on-failure", "on-unhealthy"]), default="always", show_default=True
)
@click.option("--startup-order", type=int, help="Modules start in this order, from 0; default: last.")
@click.option("--route", "routes", multiple=True, type=_name_and_value, metavar="NAME=ROUTE", help="Route of messages.")
@click.option("--ttl", "ttl_s", type=click.IntRange(0), help="Seconds for which messages wait for a connection. [default: 7200]")
@click.option("--user", help="User with which devices pull from the registry.")
@click.option("--password-stdin", is_flag=True, help="Read that user's password from standard input; the manifest holds it.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; default: standard output.")
@cloud_options
def manifest(
    *,
    image: str,
    name: str | None,
    base: Path | None,
    layered: bool,
    runtime: str | None,
    port: int,
    no_port: bool,
    keys_folder: str | None,
    cpus: float | None,
    memory_mib: int | None,
    gpus: str,
    devices: tuple[str, ...],
    environment: tuple[tuple[str, str], ...],
    restart: str,
    startup_order: int | None,
    routes: tuple[tuple[str, str], ...],
    ttl_s: int | None,
    user: str | None,
    password_stdin: bool,
    output: Path | None,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Write a deployment manifest with an image as a module.

    IMAGE is an image of the cloud (NAME[:VERSION]) or the whole reference of one in another registry (HOST/NAME:TAG). With
    --base, the module joins those of an existing manifest, so several commands make a manifest of several modules.
    """
    _check_together(base=base, layered=layered, runtime=runtime, ttl_s=ttl_s, user=user, password_stdin=password_stdin)
    reference = _reference(image, cloud)
    module_name = name or reference.rpartition("/")[2].partition("@")[0].partition(":")[0].removesuffix("-image")
    options = ContainerOptions(
        port=None if no_port else port,
        keys_folder=f"/etc/edgewright/{module_name}" if keys_folder is None else keys_folder,
        cpus=cpus,
        memory_mib=memory_mib,
        gpus=gpus,
        devices=devices,
    )
    module = Module(
        name=module_name,
        image=reference,
        options=options,
        environment=dict(environment),
        restart_policy=restart,
        startup_order=startup_order,
    )
    login = None if user is None else RegistryLogin(reference.partition("/")[0], user, sys.stdin.readline().rstrip("\n"))
    if base is not None:
        document = manifests.added(read_manifest(base), module, routes=dict(routes), login=login)
    elif layered:
        document = manifests.layered(module, dict(routes))
    else:
        ttl = manifests.DEFAULT_TTL_S if ttl_s is None else ttl_s
        document = manifests.standard(module, runtime=runtime or RUNTIME, ttl_s=ttl, login=login, routes=dict(routes))
    _finish(document, module, output, is_secret=login is not None, as_json=as_json)


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def check(file: Path, as_json: bool) -> None:
    """Check a standard or layered manifest; each fault is shown with its path."""
    document = read_manifest(file)
    faults = faults_of(document)
    warnings = [] if faults else warnings_of(document)
    kind = "layered" if is_layered(document) else "standard"
    if as_json:
        print_json({"kind": kind, "faults": faults, "warnings": warnings})
    else:
        for fault in faults:
            click.echo(str(fault))
        for warning in warnings:
            click.echo(f"warning: {warning}")
        if not faults:
            click.echo(f"{file}: a {kind} manifest without faults")
    if faults:
        raise BadInputError(f"{file} has {len(faults)} fault{'s' if len(faults) > 1 else ''}")


@click.command("preview")
@click.argument("base", type=click.Path(path_type=Path))
@click.option("--layer", "layers", multiple=True, type=_layer, metavar="PRIORITY:FILE", help="A layered manifest over the base.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File for the combined manifest.")
@common_options
def preview(base: Path, layers: tuple[tuple[int, Path], ...], output: Path | None, as_json: bool) -> None:
    """Show what a device gets from a base manifest and the layers over it."""
    read = [Layer(name=str(path), priority=priority, manifest=read_manifest(path)) for priority, path in layers]
    combined = effective(read_manifest(base), read, base_name=str(base))
    if output is not None:
        _write(combined.manifest, output)
    if as_json:
        print_json(combined)
        return
    rows = [(place, names[-1], " ".join(names[:-1]) or None) for place, names in sorted(combined.origins.items())]
    print_table(("part", "set by", "replaced"), rows)


def _check_together(
    *, base: Path | None, layered: bool, runtime: str | None, ttl_s: int | None, user: str | None, password_stdin: bool
) -> None:
    if base is not None and layered:
        raise BadInputError("--layered makes a new manifest: omit it, or omit --base")
    for option, value in (("--runtime", runtime), ("--ttl", ttl_s)):
        if value is not None and (base is not None or layered):
            raise BadInputError(f"{option} belongs to a new standard manifest: omit it, or --base and --layered")
    if (user is None) is password_stdin:
        raise BadInputError("--user and --password-stdin must be given together: add the other one")
    if user is not None and layered:
        raise BadInputError("credentials of a registry belong to the base deployment: omit --user")


def _reference(image: str, cloud: str | None) -> str:
    """Return the whole reference of an image; one of the cloud is looked up, and must be built."""
    if "/" in image:
        parse_image_reference(image)
        return image
    reference = parse_reference(image)
    with CloudClient.connect(cloud) as client:
        try:
            record = client.image(reference.name, reference.version)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; build it first: edgewright images build MODEL --name {reference.name}") from error
        if record.index is None:
            raise OperationError(f"image {record} is not built: its state is {record.state}")
        location = client.image_location(record)
    return f"{location}@{record.index.digest}"


def _finish(document: dict[str, Any], module: Module, output: Path | None, *, is_secret: bool, as_json: bool) -> None:
    """Write a manifest without faults and say so."""
    faults = faults_of(document)
    if faults:
        raise BadInputError(f"the manifest has a fault at {faults[0]}")
    _write(document, output, is_secret=is_secret)
    for warning in warnings_of(document):
        click.echo(f"warning: {warning}", err=True)
    if output is not None and as_json:
        print_json({"file": str(output), "module": module.name, "image": module.image})
    elif output is not None:
        click.echo(f"wrote {output}: module {module.name} of {module.image}")


def _write(document: dict[str, Any], output: Path | None, *, is_secret: bool = False) -> None:
    content = json.dumps(document, indent=2)
    if output is None:
        click.echo(content)
    else:
        write_atomically(output, f"{content}\n".encode(), mode=0o600 if is_secret else 0o666)
