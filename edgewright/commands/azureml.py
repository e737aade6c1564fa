"""`edgewright azureml`: move scripts of Azure ML's SDK v1."""

from __future__ import annotations

from pathlib import Path

import click

from edgewright.command_line import common_options, print_json, print_table


@click.group()
def group() -> None:
    """Move scripts of Azure ML's SDK v1 to this product."""


@group.command()
@click.argument("script", type=click.Path(path_type=Path))
@common_options
@click.pass_context
def check(ctx: click.Context, script: Path, as_json: bool) -> None:
    """List the imports and calls of SCRIPT that belong to Azure ML: covered or not, and the differences.

    The script is parsed and not run. The exit code is 1 if a name is not covered.
    """
    from edgewright.azureml.checking import check_script

    uses = check_script(script)
    missing = sum(not use.is_covered for use in uses)
    if as_json:
        print_json({"uses": uses, "missing": missing})
    else:
        print_table(("line", "name", "covered", "note"), [(use.line, use.name, _word(use.is_covered), use.note) for use in uses])
        click.echo(f"{len(uses) - missing} of {len(uses)} names are covered")
    ctx.exit(1 if missing else 0)


def _word(is_covered: bool) -> str:
    return "yes" if is_covered else "no"
