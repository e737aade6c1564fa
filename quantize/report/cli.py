"""`edgewright report`."""

from __future__ import annotations

from pathlib import Path

import click

from edgewright.command_line import common_options, print_json
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.files import write_atomically
from quantize.report.page import collect, page


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page to write; the JSON file is written beside it. [default: report.html in the build's reports]",
)
@common_options
def command(build: Path, output: Path | None, as_json: bool) -> None:
    """Write one page on all variants: accuracy, size, latency, SQNR.

    The page is self-contained and needs no network; a JSON file with the same numbers is written beside it.
    """
    opened = BuildDirectory.open(build)
    report = collect(opened)
    target = output or opened.reports / "report.html"
    write_atomically(target, page(report).encode())
    write_atomically(target.with_suffix(".json"), wire.encode_readable(report))
    if as_json:
        print_json(report)
    else:
        click.echo(f"wrote {target} and {target.with_suffix('.json').name}")
