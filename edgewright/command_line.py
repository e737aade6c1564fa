"""Shared by all commands: `--json`, `-v`, shares, durations, tables, and a progress bar for terminals."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgewright.contracts import wire
from edgewright.contracts.names import is_model_reference

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def common_options(command: F) -> F:
    """Add `--json` (parameter `as_json`) and `-v/--verbose` to a command."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")(command)
    return click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=_set_verbosity, help="Log more (-vv: everything)."
    )(command)


class ModelPath(click.Path):
    """A path, or a reference such as `models:digits:3`, for which the root command provides the downloaded files.

    They are removed when the command ends.
    """

    def __init__(self, content: str) -> None:
        """Accept a path; of a reference, provide the `source` files or, if there is one, the `package`."""
        super().__init__(path_type=Path)
        self._content = content

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        provide = None if ctx is None else ctx.find_root().obj
        if ctx is None or provide is None or not isinstance(value, str) or not is_model_reference(value):
            return super().convert(value, param, ctx)
        return ctx.with_resource(provide(value, self._content))


def share(text: str) -> float:
    """Return the fraction in `95%` or `0.95`: the type of every option that takes a share."""
    number = text.strip()
    try:
        fraction = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise click.BadParameter(f"must be a fraction from 0% to 100%, as in 95% or 0.95, not {text!r}")
    return fraction


def print_json(value: Any) -> None:
    """Print dataclasses, enums, timestamps and plain values as one JSON document."""
    click.echo(json.dumps(wire.to_plain(value), indent=2, sort_keys=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns, numbers to the right and everything else to the left; an empty table still has its head."""
    texts = [[_text(cell) for cell in row] for row in rows]
    numeric = [bool(texts) and all(_is_number(row[index]) for row in texts) for index in range(len(columns))]
    widths = [max([len(name), *(len(row[index]) for row in texts)]) for index, name in enumerate(columns)]
    for row in [list(columns), *texts]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield `items`, with a progress bar on the error stream if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, label=label, file=sys.stderr) as bar:
        yield from bar


class LogFormatter(logging.Formatter):
    """One line per event: control characters, which a client may have sent, are escaped; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        """Return the line of an event."""
        return escape_controls(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  the base class's name
        """Return the lines of a traceback."""
        return "\n".join(escape_controls(line) for line in super().formatException(ei).split("\n"))


def escape_controls(text: str) -> str:
    """Escape line breaks and all other characters that a terminal interprets or does not show."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def _set_verbosity(_context: click.Context, _parameter: click.Parameter, count: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(levelname).1s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else escape_controls(str(cell))


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "").replace(",", "").replace("-", "").replace("e", "").removesuffix("%").isdigit()


def duration(text: str) -> float:
    """Convert a duration such as 50ms, 30s, 5m, 1h or 2d to seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|[smhd])", text)
    if not match:
        raise click.BadParameter(f"must be a number and a unit, as in 50ms, 30s, 5m, 1h or 2d, not {text!r}")
    return float(match[1]) * _UNITS_S[match[2]]
