"""`edgewright featurizers`: list the networks, build one."""

from __future__ import annotations

from pathlib import Path

import click

from convert.featurizers.networks import NETWORKS, BuildOptions, build_network
from edgewright.command_line import common_options, print_json, print_table


@click.group()
def group() -> None:
    """List and build networks."""


@group.command("list")
@common_options
def list_networks(as_json: bool) -> None:
    """List the networks with their published size and input."""
    if as_json:
        print_json(list(NETWORKS.values()))
        return
    rows = [
        (network.name, network.parameters, network.image_size, network.classes, network.description)
        for network in NETWORKS.values()
    ]
    print_table(["network", "parameters", "image", "classes", "description"], rows)


@group.command()
@click.argument("name", metavar="NAME")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .keras file to write.")
@click.option("--weights", type=click.Path(path_type=Path), help="A weights file that Keras wrote (default: random).")
@click.option("--classes", type=int, help="Classes of the head (default: as published).")
@click.option("--image-size", type=int, help="Height and width of the image in pixels (default: as published).")
@click.option("--seed", default=0, show_default=True, help="Seed of random weights.")
@click.option("--featurizer-only", is_flag=True, help="Leave the head out.")
@common_options
def build(
    name: str,
    output: Path,
    weights: Path | None,
    classes: int | None,
    image_size: int | None,
    seed: int,
    featurizer_only: bool,
    as_json: bool,
) -> None:
    """Build a network as one .keras file, including its preprocessing."""
    from convert.featurizers.saving import save_network

    options = BuildOptions(classes=classes, image_size=image_size, weights=weights, seed=seed, featurizer_only=featurizer_only)
    built = build_network(name, options)
    save_network(built, output)
    parameters, size_bytes = built.model.count_params(), output.stat().st_size
    if as_json:
        print_json(
            {"network": name, "path": str(output), "parameters": parameters, "size_bytes": size_bytes, "notes": built.notes}
        )
        return
    origin = f"random weights, seed {seed}" if weights is None else f"weights of {weights}"
    click.echo(f"wrote {output}: {name}, {parameters} parameters, {size_bytes} bytes, {origin}")
