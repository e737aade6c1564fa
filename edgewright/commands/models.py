"""`edgewright models`: the versions of models in the registry, their source files, tags and aliases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgewright.command_line import duration, print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, labels_text, moment, size_text, transfer_progress
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.registration import Framework, Registration, check_alias
from edgewright.contracts.names import PackageReference, check_name, parse_reference
from edgewright.errors import BadInputError
from edgewright.sdk import CloudClient
from edgewright.sdk.trying import SampleOptions

Pairs = tuple[tuple[str, str], ...]


@click.group("models")
def group() -> None:
    """Register, list, tag, download and delete models."""


@group.command("register")
@click.argument("name")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--framework", type=click.Choice([each.value for each in Framework]), default="custom", show_default=True)
@click.option("--framework-version", default="", help="Version of the framework that the model was saved with.")
@click.option("--description", default="", help="One line for people.")
@click.option("--cpu", type=float, help="Processors that scoring with it needs.")
@click.option("--memory-gb", type=float, help="Memory that scoring with it needs, in GB.")
@click.option("--run", default="", metavar="ID", help="The run that trained it.")
@click.option("--tag", "tags", type=label, multiple=True, help="A tag, as in stage=test (repeat for more).")
@click.option("--property", "properties", type=label, multiple=True, help="A property, which never changes (repeat for more).")
@click.option(
    "--sample-input",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run the model once on this input (JSON, CSV, .npy, .npz), and refuse a model that fails.",
)
@click.option("--trust", is_flag=True, help="With --sample-input: run code in the model's file (pickles, PyTorch).")
@cloud_options
def register(
    *,
    name: str,
    paths: tuple[Path, ...],
    framework: str,
    framework_version: str,
    description: str,
    cpu: float | None,
    memory_gb: float | None,
    run: str,
    tags: Pairs,
    properties: Pairs,
    sample_input: Path | None,
    trust: bool,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Register a file, a folder or several files as the next version of the model NAME.

    Only files that the cloud lacks are sent. The sample input is stored with the version; it gives the framework and the schema.
    """
    registration = Registration(
        framework=Framework(framework),
        framework_version=framework_version,
        description=description,
        cpu=cpu,
        memory_gb=memory_gb,
        run=run,
        tags=dict(tags),
        properties=dict(properties),
    )
    sample = None if sample_input is None else SampleOptions(sample_input, trust=trust)
    with CloudClient.connect(cloud, start_embedded=True) as client, transfer_progress("pushing") as on_progress:
        version = client.register_model(name, paths, registration, sample=sample, on_progress=on_progress)
    _print_registered(version, as_json=as_json)


def _print_registered(version: ModelVersion, *, as_json: bool) -> None:
    if as_json:
        print_json(version)
        return
    files = f"{len(version.files)} file{'' if len(version.files) == 1 else 's'}, {size_text(version.size_bytes)}"
    click.echo(f"registered {version.model}:{version.version}: {files}")


@group.command("import")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--no-run", is_flag=True, help="Do not run the model on the input example of the folder.")
@click.option("--trust", is_flag=True, help="Run code in the model's file (pickles, PyTorch).")
@cloud_options
def import_folder(name: str, folder: Path, no_run: bool, trust: bool, cloud: str | None, as_json: bool) -> None:
    """Register an MLflow model FOLDER as the next version of the model NAME.

    Framework and schema come from its MLmodel. A model with an input example is run on it once, and refused if it fails.
    """
    with CloudClient.connect(cloud) as client, transfer_progress("pushing") as on_progress:
        version = client.import_mlflow(name, folder, runs=not no_run, trust=trust, on_progress=on_progress)
    _print_registered(version, as_json=as_json)


@group.command("export")
@click.argument("model", metavar="MODEL[:VERSION|@ALIAS]")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to create.")
@cloud_options
def export_folder(model: str, output: Path, cloud: str | None, as_json: bool) -> None:
    """Write a version as an MLflow model folder."""
    with CloudClient.connect(cloud) as client, transfer_progress("downloading") as on_progress:
        version = client.model_version(parse_reference(model))
        client.export_mlflow(version, output, on_progress=on_progress)
    if as_json:
        print_json(version)
    else:
        click.echo(f"{output}: MLflow model of {version.model}:{version.version}")


@group.command("list")
@click.option("--tag", type=label, help="Every version that has this tag; default: the newest version of every model.")
@click.option("--framework", type=click.Choice([each.value for each in Framework]), help="Every version of this framework.")
@click.option("--limit", type=click.IntRange(1, 10_000), help="At most this many versions.")
@click.option("--after", type=parse_reference, metavar="MODEL:VERSION", help="Continue after the last version of a page.")
@cloud_options
def list_models(
    tag: tuple[str, str] | None,
    framework: str | None,
    limit: int | None,
    after: PackageReference | None,
    cloud: str | None,
    as_json: bool,
) -> None:
    """List the newest version of every model."""
    with CloudClient.connect(cloud) as client:
        text = None if tag is None else "=".join(tag)
        _print(client.models(tag=text, framework=framework, limit=limit, after=after), as_json=as_json)


@group.command("show")
@click.argument("name")
@cloud_options
def show(name: str, cloud: str | None, as_json: bool) -> None:
    """Show all versions of one model, or one version (NAME:VERSION, NAME@ALIAS)."""
    reference = parse_reference(name)
    with CloudClient.connect(cloud) as client:
        if reference == PackageReference(reference.name, None):
            _print(client.model_versions(reference.name), as_json=as_json)
            return
        version = client.model_version(reference)
    if as_json:
        print_json(version)
    else:
        print_table(("field", "value"), _fields(version))


@group.command("tag")
@click.argument("model", metavar="MODEL:VERSION")
@click.argument("tags", nargs=-1, required=True, type=label)
@cloud_options
def tag(model: str, tags: Pairs, cloud: str | None, as_json: bool) -> None:
    """Set tags of a version, as in stage=test; an empty text (stage=) removes one."""
    with CloudClient.connect(cloud) as client:
        version = client.model_version(_exact(model))
        merged = {**_registration(version).tags, **dict(tags)}
        changed = client.set_tags(version, {name: text for name, text in merged.items() if text})
    _print((changed,), as_json=as_json)


@group.command("alias")
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--remove", is_flag=True, help="Remove the alias.")
@cloud_options
def alias(name: str, alias: str, version: int | None, remove: bool, cloud: str | None, as_json: bool) -> None:
    """Let ALIAS name a VERSION of the model NAME; NAME@ALIAS then stands for it."""
    check_name(name, "model")
    check_alias(alias)
    if remove == (version is not None):
        raise click.UsageError("give either a version or --remove")
    with CloudClient.connect(cloud) as client:
        if version is None:
            client.remove_alias(name, alias)
            click.echo("{}" if as_json else f"{name}@{alias} is removed")
            return
        changed = client.set_alias(client.model_version(PackageReference(name, version)), alias)
    if as_json:
        print_json(changed)
    else:
        click.echo(f"{name}@{alias} is {name}:{changed.version}")


@group.command("download")
@click.argument("model", metavar="MODEL[:VERSION|@ALIAS]")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to create.")
@cloud_options
def download(model: str, output: Path, cloud: str | None, as_json: bool) -> None:
    """Download the registered files of a version; every byte is verified."""
    reference = parse_reference(model)
    with CloudClient.connect(cloud) as client, transfer_progress("downloading") as on_progress:
        version = client.model_version(reference)
        client.download_model(version, output, on_progress=on_progress)
    if as_json:
        print_json(version)
    else:
        count = len(version.files)
        files = "1 file" if count == 1 else f"{count} files"
        click.echo(f"{output}: {files} of {version.model}:{version.version}, {size_text(version.size_bytes)}")


@group.command("delete")
@click.argument("model", metavar="MODEL:VERSION")
@cloud_options
def delete(model: str, cloud: str | None, as_json: bool) -> None:
    """Delete a version; its number stays taken."""
    with CloudClient.connect(cloud) as client:
        version = client.delete_version(client.model_version(_exact(model)))
    if as_json:
        print_json(version)
    else:
        click.echo(f"deleted {version.model}:{version.version}")


@group.command("gc")
@click.option("--grace", "grace_s", type=duration, default="24h", show_default=True, help="Keep what was used within this time.")
@cloud_options
def collect(grace_s: float, cloud: str | None, as_json: bool) -> None:
    """Remove files of the registry that no version refers to; the cloud does so every hour."""
    with CloudClient.connect(cloud) as client:
        collected = client.collect_unreferenced(grace_s)
    if as_json:
        print_json(collected)
    else:
        click.echo(f"removed {collected.blobs} file{'' if collected.blobs == 1 else 's'}, {size_text(collected.size_bytes)}")


def _exact(model: str) -> PackageReference:
    reference = parse_reference(model)
    if reference.version is None and reference.alias is None:
        raise BadInputError(f"a version must be named, as in {reference.name}:2, but {model} has none")
    return reference


def _registration(version: ModelVersion) -> Registration:
    return version.registration or Registration()


def _fields(version: ModelVersion) -> list[tuple[str, object]]:
    registration = _registration(version)
    framework = f"{registration.framework} {registration.framework_version}".strip() if version.registration else None
    return [
        ("model", f"{version.model}:{version.version}"),
        ("aliases", " ".join(version.aliases) or None),
        ("created", moment(version.published_at)),
        ("framework", framework),
        ("description", registration.description or None),
        ("tags", labels_text(registration.tags)),
        ("properties", labels_text(registration.properties)),
        ("processors", registration.cpu),
        ("memory GB", registration.memory_gb),
        ("run", registration.run or None),
        ("inputs", "; ".join(map(str, registration.inputs)) or None),
        ("outputs", "; ".join(map(str, registration.outputs)) or None),
        ("variants", " ".join(version.variants) or None),
        ("made from", None if version.source_version is None else f"{version.model}:{version.source_version}"),
        ("signed by", version.key_id[:16] or None),
        ("size", size_text(version.size_bytes)),
        ("index", version.index.digest),
        *(("file", f"{file.path} ({size_text(file.size)})") for file in version.files),
        *(("sample", f"{file.path} ({size_text(file.size)})") for file in version.golden),
    ]


def _print(versions: Sequence[ModelVersion], *, as_json: bool) -> None:
    if as_json:
        print_json(versions)
        return
    columns = ("model", "version", "aliases", "published", "size", "files", "variants", "signed by", "tags")
    print_table(
        columns,
        [
            (
                version.model,
                version.version,
                " ".join(version.aliases) or None,
                moment(version.published_at),
                size_text(version.size_bytes),
                len(version.files) or None,
                " ".join(version.variants) or None,
                version.key_id[:16] or None,
                labels_text(_registration(version).tags),
            )
            for version in versions
        ],
    )
