"""`edgewright environments`: named, versioned lists of what scoring scripts need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from edgewright.command_line import print_json, print_table
from edgewright.commands.cloud_options import cloud_options, label, labels_text, moment
from edgewright.contracts.environments.definition import Environment, EnvironmentVersion, parse_environment_reference
from edgewright.contracts.environments.reading import from_conda, from_dockerfile, from_requirements
from edgewright.errors import BadInputError
from edgewright.sdk import CloudClient


@click.group("environments")
def group() -> None:
    """Describe what scoring scripts need."""


@group.command("create")
@click.argument("name")
@click.option("--conda", type=click.Path(path_type=Path), help="Conda environment file (YAML).")
@click.option("--requirements", type=click.Path(path_type=Path), help="Requirements file of pip.")
@click.option("--dockerfile", type=click.Path(path_type=Path), help="Dockerfile of the base image.")
@click.option("--base-image", default="", metavar="REFERENCE", help="Base image; default: the cloud machine's own Python.")
@click.option("--python", "python_version", default="", metavar="VERSION", help="Version of Python, as in 3.11.")
@click.option("--pip", "pip_packages", multiple=True, metavar="REQUIREMENT", help="A pip package (repeat for more).")
@click.option("--variable", "variables", type=label, multiple=True, help="A variable, as in OMP_NUM_THREADS=1 (repeat for more).")
@click.option("--description", default="", help="One line for people.")
@cloud_options
def create(
    *,
    name: str,
    conda: Path | None,
    requirements: Path | None,
    dockerfile: Path | None,
    base_image: str,
    python_version: str,
    pip_packages: tuple[str, ...],
    variables: tuple[tuple[str, str], ...],
    description: str,
    cloud: str | None,
    as_json: bool,
) -> None:
    """Register an environment as the next version of NAME.

    Nothing is registered if the newest version has the same content.
    """
    definition = _from_files(name, conda, requirements)
    changes: dict[str, object] = {"description": description, "base_image": base_image}
    if dockerfile is not None:
        changes["dockerfile"] = from_dockerfile(dockerfile, name=name).dockerfile
    if python_version:
        changes["python_version"] = python_version
    changes["pip_packages"] = (*definition.pip_packages, *pip_packages)
    changes["variables"] = {**definition.variables, **dict(variables)}
    with CloudClient.connect(cloud, start_embedded=True) as client:
        created = client.create_environment(replace(definition, **changes))  # type: ignore[arg-type]
    if as_json:
        print_json(created)
    else:
        click.echo(f"environment {created.name}:{created.version}")


@group.command("list")
@cloud_options
def list_environments(cloud: str | None, as_json: bool) -> None:
    """List the newest version of every environment."""
    with CloudClient.connect(cloud) as client:
        _print(client.list_environments(), as_json=as_json)


@group.command("show")
@click.argument("name", metavar="NAME[:VERSION]")
@cloud_options
def show(name: str, cloud: str | None, as_json: bool) -> None:
    """Show one version of an environment; default: the newest."""
    reference = parse_environment_reference(name)
    with CloudClient.connect(cloud) as client:
        version = client.environment(reference.name, reference.version)
    if as_json:
        print_json(version)
    else:
        print_table(("field", "value"), _fields(version))


@group.command("build")
@click.argument("name", metavar="NAME[:VERSION]")
@cloud_options
def build(name: str, cloud: str | None, as_json: bool) -> None:
    """Build an image that holds the environment alone; images of models then share its layers."""
    reference = parse_environment_reference(name)
    with CloudClient.connect(cloud) as client:
        record = client.build_environment(client.environment(reference.name, reference.version))
        for piece in client.follow_build(record):
            click.echo(piece, nl=False, err=True)
        record = client.wait_for_image(record)
        location = client.image_location(record)
    if as_json:
        print_json(record)
    else:
        click.echo(f"image {location}")


def _from_files(name: str, conda: Path | None, requirements: Path | None) -> Environment:
    if conda is not None and requirements is not None:
        raise BadInputError("an environment must come from a conda file or a requirements file, not both: omit one")
    if conda is not None:
        return from_conda(conda, name=name)
    return Environment(name=name) if requirements is None else from_requirements(requirements, name=name)


def _fields(version: EnvironmentVersion) -> list[tuple[str, object]]:
    environment = version.environment
    return [
        ("environment", f"{version.name}:{version.version}"),
        ("created", moment(version.created_at)),
        ("description", environment.description or None),
        ("base image", environment.base_image or ("built by its Dockerfile" if environment.dockerfile else None)),
        ("python", environment.python_version or None),
        ("package index", environment.pip_index_url or None),
        ("channels", " ".join(environment.conda_channels) or None),
        ("variables", labels_text(environment.variables)),
        ("digest", version.digest),
        *(("conda package", package) for package in environment.conda_packages),
        *(("pip package", package) for package in environment.pip_packages),
    ]


def _print(versions: Sequence[EnvironmentVersion], *, as_json: bool) -> None:
    if as_json:
        print_json(versions)
        return
    columns = ("environment", "version", "created", "python", "packages", "base image")
    rows = [
        (
            version.name,
            version.version,
            moment(version.created_at),
            version.environment.python_version or None,
            len(version.environment.pip_packages) + len(version.environment.conda_packages),
            version.environment.base_image or None,
        )
        for version in versions
    ]
    print_table(columns, rows)
