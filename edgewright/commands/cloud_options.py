"""Shared by the commands that use a cloud: `--cloud`, progress, and the notation of labels, timestamps and sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from edgewright.command_line import common_options

F = TypeVar("F", bound=Callable[..., Any])


def cloud_options(command: F) -> F:
    """Add `--cloud` (parameter `cloud`) and the options of every command."""
    help_text = "client.json, its directory, or a URL. [default: $EDGEWRIGHT_CLOUD, else ~/.config/edgewright/client.json, "
    help_text += "else the embedded cloud in ./.edgewright]"
    return common_options(click.option("--cloud", metavar="PATH_OR_URL", help=help_text)(command))


def label(text: str) -> tuple[str, str]:
    """Return the name and the value of a label, as in site=plant-2."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"must be a name and a value, as in site=plant-2, not {text!r}")
    return name, value


def labels_text(labels: dict[str, str]) -> str | None:
    """Return labels as one text, or None for no labels."""
    return " ".join(f"{name}={text}" for name, text in sorted(labels.items())) or None


def moment(instant: datetime) -> str:
    """Return a timestamp as text, in UTC and to the second."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size_text(size_bytes: int) -> str:
    """Return a size as text with a decimal unit, as in 812.3 kB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


@contextmanager
def transfer_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for the bytes done and to do; it shows a progress bar if the error stream is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with click.progressbar(length=0, label=text, file=sys.stderr) as bar:

        def show_progress(done: int, total: int) -> None:
            bar.length = total or 1  # with nothing to do the bar is full at once
            bar.update((done if total else 1) - bar.pos)

        yield show_progress
