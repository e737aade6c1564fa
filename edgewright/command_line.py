"""What every command has: `--json`, `-v`, a progress bar that is quiet when nobody watches, tables."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

from edgewright.contracts import wire

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def common_options(command: F) -> F:
    """Add `--json` (parameter `as_json`) and `-v/--verbose` to a command."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")(command)
    return click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=_set_verbosity, help="Say more (-vv: everything)."
    )(command)


def print_json(value: Any) -> None:
    """Print dataclasses, enums, instants and plain values as one JSON document."""
    click.echo(json.dumps(wire.to_plain(value), indent=2, sort_keys=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns; numbers to the right, everything else to the left. An empty table still shows its header."""
    texts = [[_text(cell) for cell in row] for row in rows]
    numeric = [bool(texts) and all(_is_number(row[place]) for row in texts) for place in range(len(columns))]
    widths = [max([len(name), *(len(row[place]) for row in texts)]) for place, name in enumerate(columns)]
    for row in [list(columns), *texts]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """Go through `items` with a progress bar on the error stream of a terminal, silently elsewhere."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, label=label, file=sys.stderr) as bar:
        yield from bar


def _set_verbosity(_context: click.Context, _parameter: click.Parameter, count: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG)
    logging.basicConfig(level=level, format="%(levelname).1s %(name)s %(message)s", stream=sys.stderr)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "").replace(",", "").replace("-", "").replace("e", "").removesuffix("%").isdigit()
