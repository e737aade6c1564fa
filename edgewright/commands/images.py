"""`edgewright images`: container images of models, scripts and environments, built by the cloud without a container engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from edgewright.command_line import print_json, print_table
from edgewright.commands.cloud_options import cloud_options, moment, size_text, transfer_progress
from edgewright.contracts.environments.images import ImageRecord, ImageRequest
from edgewright.contracts.names import parse_reference
from edgewright.errors import BadInputError
from edgewright.registries.login import Credentials
from edgewright.sdk import CloudClient
from edgewright.sdk.images import default_image_name


@click.group("images")
def group() -> None:
    """Build container images that score."""


@group.command("build")
@click.argument("models", metavar="[MODEL[:VERSION|@ALIAS]]...", nargs=-1)
@click.option("--name", help="Name of the image; default: that of the first model and '-image'.")
@click.option(
    "--env", "environment", default="", metavar="NAME[:VERSION]", help="Environment; default: what the framework needs."
)
@click.option("--script", type=click.Path(path_type=Path), help="Entry script with init() and run(); default: no code.")
@click.option("--source", type=click.Path(path_type=Path), help="Folder that holds the script and what it imports.")
@click.option("--variant", default="", help="Variant of a package; default: fp32.")
@click.option("--trust", is_flag=True, help="Let a model without a script be a pickle: you made it, or trust its author.")
@click.option("--platform", "platforms", default="", metavar="OS/ARCH,...", help="Platforms, such as linux/amd64,linux/arm64.")
@click.option("--dockerfile", "context", type=click.Path(path_type=Path), metavar="DIR", help="Write a folder for docker build.")
@click.option("--no-follow", is_flag=True, help="Queue the build and return; 'images show' has its state.")
@cloud_options
def build(
    *,
    models: tuple[str, ...],
    name: str | None,
    environment: str,
    script: Path | None,
    source: Path | None,
    variant: str,
    trust: bool,
    platforms: str,
    context: Path | None,
    no_follow: bool,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Build the next version of an image with models, an environment and an entry script.

    The log of the build goes to the error stream. With --dockerfile, the image is also written as a Dockerfile with its layers.
    """
    if not models and name is None:
        raise BadInputError("an image without a model needs a name: give --name")
    if source is not None and script is None:
        raise BadInputError("--source must come with --script, which names the entry script in it")
    if context is not None and no_follow:
        raise BadInputError("--dockerfile needs the finished image: omit --no-follow")
    image = name or default_image_name(models)
    request = ImageRequest(
        name=image,
        models=models,
        environment=environment,
        variant=variant,
        trust=trust,
        platforms=tuple(each.strip() for each in platforms.split(",") if each.strip()),
    )
    with CloudClient.connect(cloud, start_embedded=True) as client:
        record = client.build_image(request, script=script, source_directory=source)
        if not no_follow:
            record = _follow(client, record)
        if context is not None:
            client.save_image_context(record, context)
        location = client.image_location(record)
    if as_json:
        print_json(record)
    elif no_follow:
        click.echo(f"image {record}: {record.state}")
    else:
        click.echo(f"image {location}: {_sizes(record)}, {size_text(record.new_bytes)} new")


@group.command("list")
@cloud_options
def list_images(cloud: str | None, as_json: bool) -> None:
    """List every version of every image."""
    with CloudClient.connect(cloud) as client:
        _print(client.images(), as_json=as_json)


@group.command("show")
@click.argument("name", metavar="NAME[:VERSION]")
@cloud_options
def show(name: str, cloud: str | None, as_json: bool) -> None:
    """Show one version of an image; default: the newest."""
    with CloudClient.connect(cloud) as client:
        record = _find(client, name)
        location = client.image_location(record)
    if as_json:
        print_json(record)
    else:
        print_table(("field", "value"), _fields(record, location))


@group.command("log")
@click.argument("name", metavar="NAME[:VERSION]")
@cloud_options
def log(name: str, cloud: str | None, as_json: bool) -> None:
    """Print the log of a build, and follow it while the build runs."""
    with CloudClient.connect(cloud) as client:
        record = _find(client, name)
        pieces = client.follow_build(record)
        if as_json:
            print_json({"image": str(record), "log": "".join(pieces)})
            return
        for piece in pieces:
            click.echo(piece, nl=False)


@group.command("why-size")
@click.argument("name", metavar="NAME[:VERSION]")
@click.option("--platform", default="", metavar="OS/ARCH", help="Platform of an image of several; default: the largest.")
@cloud_options
def why_size(name: str, platform: str, cloud: str | None, as_json: bool) -> None:
    """Show the layers of an image with their sizes, largest first."""
    with CloudClient.connect(cloud) as client:
        record = _find(client, name)
    largest = max(record.platforms, key=lambda each: sum(layer.unpacked_bytes for layer in record.layers_of(each)))
    layers = sorted(record.layers_of(platform or largest), key=lambda layer: -layer.unpacked_bytes)
    if not layers:
        raise BadInputError(f"image {record} must have layers for {platform or 'a platform'}: 'images show' lists its platforms")
    if as_json:
        print_json(layers)
        return
    total = sum(layer.unpacked_bytes for layer in layers)
    rows = [
        (
            str(layer.part),
            size_text(layer.unpacked_bytes),
            f"{layer.unpacked_bytes / total:.0%}",
            size_text(layer.blob.size),
            layer.title if len(layer.title) <= 80 else layer.title[:77] + "...",
        )
        for layer in layers
    ]
    rows.append(("all", size_text(total), "100%", size_text(sum(layer.blob.size for layer in layers)), f"{len(layers)} layers"))
    print_table(("part", "on disk", "share", "transferred", "content"), rows)


@group.command("push")
@click.argument("name", metavar="NAME[:VERSION]")
@click.argument("target", metavar="HOST[:PORT]/NAME[:TAG]")
@click.option("--user", help="User of the registry; default: that of 'docker login'.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="Certificate authority of the registry (PEM).")
@click.option("--mount-from", default="", metavar="NAME", help="Repository there that has some layers, such as the package's.")
@cloud_options
def push(
    *,
    name: str,
    target: str,
    user: str | None,
    password_stdin: bool,
    ca_file: Path | None,
    mount_from: str,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Push an image to another registry; only blobs that it lacks are sent."""
    if (user is None) is password_stdin:
        raise BadInputError("--user and --password-stdin must be given together: add the other one")
    credentials = None if user is None else Credentials(user, _password())
    with CloudClient.connect(cloud) as client, transfer_progress("pushing") as on_progress:
        record = _find(client, name)
        sent = client.push_image(
            record, target, credentials=credentials, ca_file=ca_file, mount_from=mount_from, on_progress=on_progress
        )
    if as_json:
        print_json({"image": str(record), "target": target, "sent_bytes": sent})
    else:
        click.echo(f"pushed {record} to {target}: {size_text(sent)} sent")


def _password() -> str:
    """Return the first line of standard input."""
    return sys.stdin.readline().rstrip("\n")


def _follow(client: CloudClient, record: ImageRecord) -> ImageRecord:
    try:
        for piece in client.follow_build(record):
            click.echo(piece, nl=False, err=True)
    except KeyboardInterrupt:
        click.echo(f"the build of {record} continues in the cloud: 'edgewright images log {record}' follows it", err=True)
        raise
    return client.wait_for_image(record)


def _find(client: CloudClient, text: str) -> ImageRecord:
    reference = parse_reference(text)
    return client.image(reference.name, reference.version)


def _sizes(record: ImageRecord) -> str:
    return f"{size_text(record.size_bytes)} to transfer, {size_text(record.unpacked_bytes)} on disk"


def _fields(record: ImageRecord, location: str) -> list[tuple[str, object]]:
    request = record.request
    return [
        ("image", str(record)),
        ("state", record.state),
        ("reason", record.reason or None),
        ("created", moment(record.created_at)),
        ("models", " ".join(request.models) or None),
        ("script", request.script or None),
        ("environment", request.environment or None),
        ("platforms", " ".join(filter(None, record.platforms)) or None),
        ("location", location if record.index else None),
        ("index", record.index.digest if record.index else None),
        ("size", _sizes(record) if record.index else None),
        *(("label", f"{name}={text}") for name, text in sorted(record.labels.items())),
    ]


def _print(records: Sequence[ImageRecord], *, as_json: bool) -> None:
    if as_json:
        print_json(records)
        return
    columns = ("image", "version", "state", "created", "size", "models", "environment")
    rows = [
        (
            record.name,
            record.version,
            record.state,
            moment(record.created_at),
            size_text(record.size_bytes) if record.index else None,
            " ".join(record.request.models) or None,
            record.request.environment or None,
        )
        for record in records
    ]
    print_table(columns, rows)
